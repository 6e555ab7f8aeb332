"""Files of fixed-size records in sections: the records, then the offsets at which sections begin and the last one ends.

A section is found by one small read, however many sections there are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.store.store import Store

Records = npt.NDArray[np.void]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RecordFile:
    """The file at `path` of `sections` sections of records of `kind`."""

    store: Store
    path: str
    kind: np.dtype[Any]
    sections: int

    def write(self, records: Records, section_records: Counts) -> None:
        """Write records, which must be sorted by section; `section_records` (sections,) has the number of records of
        each.

        Raises: StoreError when the store cannot be written.
        """
        ends = np.concatenate(([0], np.cumsum(section_records)))
        with self.store.write(self.path) as file:
            file.write(records.tobytes())
            file.write(offset_bytes(ends))

    def read(self, first: int, sections: int) -> tuple[Records, Counts]:
        """Return the records of some sections, (N,), and the offsets at which they begin and the last one ends,
        (sections + 1,).
        """
        with self.store.open_input(self.path) as file:
            ends = read_offsets(file, self.sections, first, sections)
            file.seek(int(ends[0]) * self.kind.itemsize)
            data = file.read_buffer(int(ends[-1] - ends[0]) * self.kind.itemsize)
        return np.frombuffer(data, self.kind), ends


def offset_bytes(offsets: Counts) -> bytes:
    """Return the table of offsets for the end of the file."""
    return offsets.astype("<i8").tobytes()


def read_offsets(file: pa.NativeFile, sections: int, first: int, wanted: int) -> Counts:
    """Return the offsets at which `wanted` sections of a file begin and the last of them ends, (wanted + 1,) int64."""
    file.seek(file.size() - (sections + 1 - first) * 8)
    return np.frombuffer(file.read_buffer((wanted + 1) * 8), "<i8")
