"""Sorted runs on disk: rows in sections, one section for each (range of hashes, subset).

    .rows   Arrow record batches, one a section, lz4; then the byte offset of each section, int64
    .keys   KEY records of all rows, in the same order; then the row offset of each section, int64

A reader takes one section by two small reads, whatever the size of the run: with 3,000 runs and 20,000 ranges, an Arrow
file's own footer would cost more than the rows. The keys are apart because the ranges phase reads nothing else.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.releases import SUBSETS
from dataset.store.store import Store

KEY = np.dtype(
    [
        ("hash", "<i8"),
        ("similarity", "<f8"),
        ("key", "<i8"),
        ("fingerprint", "<u8"),  # of URL and TEXT: tells a duplicate from another pair with the same hash
        ("contacts", "u1"),  # 1: an e-mail address in the caption, 2: a phone number
    ]
)
Keys = npt.NDArray[np.void]
Counts = npt.NDArray[np.int64]

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run in the work folder; `ranges` is the plan's number of ranges."""

    store: Store
    stem: str
    ranges: int

    def write(self, rows: pa.Table, keys: Keys, section_rows: Counts) -> None:
        """Write rows and keys in the order of their sections; `section_rows` (ranges * subsets,) counts them.

        Raises: StoreError when the store takes no more.
        """
        ends = np.concatenate(([0], np.cumsum(section_rows))).astype("<i8")
        with self.store.write(f"{self.stem}.rows") as file:
            file.write(_write_sections(file, rows, ends).tobytes())
        with self.store.write(f"{self.stem}.keys") as file:
            file.write(keys.tobytes())
            file.write(ends.tobytes())

    def read_keys(self, at: int) -> tuple[Keys, Counts]:
        """Return the keys of a range, subset after subset, and how many each subset has."""
        with self.store.open_input(f"{self.stem}.keys") as file:
            ends = self._offsets(file, at * len(SUBSETS), len(SUBSETS))
            file.seek(int(ends[0]) * KEY.itemsize)
            data = file.read_buffer(int(ends[-1] - ends[0]) * KEY.itemsize)
        return np.frombuffer(data, KEY), np.diff(ends)

    def read_rows(self, at: int, subset: int, schema: pa.Schema) -> pa.RecordBatch | None:
        """Return the rows of a range and subset; None if the run has none."""
        with self.store.open_input(f"{self.stem}.rows") as file:
            start, end = self._offsets(file, at * len(SUBSETS) + subset, 1)
            if start == end:
                return None
            file.seek(int(start))
            message = pa.ipc.read_message(file.read_buffer(int(end - start)))
        return pa.ipc.read_record_batch(message, schema)

    def _offsets(self, file: pa.NativeFile, first: int, sections: int) -> Counts:
        """Read where `sections` sections begin and the last of them ends -> (sections + 1,)."""
        table = (self.ranges * len(SUBSETS) + 1) * 8
        file.seek(file.size() - table + first * 8)
        return np.frombuffer(file.read_buffer((sections + 1) * 8), "<i8")


def _write_sections(file: BinaryIO, rows: pa.Table, ends: Counts) -> Counts:
    """Write a record batch for each section that has rows, and return the byte offsets of all sections."""
    offsets = np.empty(len(ends), "<i8")
    with pa.ipc.new_stream(file, rows.schema, options=_COMPRESSED) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist([], rows.schema))  # or the schema would begin the first section
        for section, (start, end) in enumerate(pairwise(ends)):
            offsets[section] = file.tell()
            if end > start:
                stream.write_batch(rows.slice(start, end - start).combine_chunks().to_batches()[0])
        offsets[-1] = file.tell()
    return offsets
