"""Sorted runs on disk: rows in sections, one section for each (range of hashes, subset).

    .rows   Arrow record batches, one per section, lz4; then the byte offsets at which sections begin and the last one
    ends .keys   KEY records of all rows, in the same order (dataset.publish.record_file)

A reader takes one section by two small reads, whatever the size of the run: with 3,000 runs and 20,000 ranges, reading
an Arrow file's own footer would take longer than reading the rows. The keys are in a separate file because the range
phase reads nothing else.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from dataset.formats.releases import SUBSETS
from dataset.publish.record_file import Counts, RecordFile, Records, offset_bytes, read_offsets
from dataset.store.store import Store

KEY = np.dtype(
    [
        ("hash", "<i8"),
        ("similarity", "<f8"),
        ("key", "<i8"),
        ("fingerprint", "<u8"),  # of URL and TEXT: distinguishes a duplicate from another pair with the same hash
        ("contacts", "u1"),  # 1: an e-mail address in the caption, 2: a phone number
    ]
)

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run in the work folder; `ranges` is the plan's number of ranges."""

    store: Store
    stem: str
    ranges: int

    def write(self, rows: pa.Table, keys: Records, section_rows: Counts) -> None:
        """Write rows and keys, which must be sorted by section; `section_rows` (ranges * subsets,) has the number of
        rows of each.

        Raises: StoreError when the store cannot be written.
        """
        with self.store.write(f"{self.stem}.rows") as file:
            file.write(offset_bytes(_write_sections(file, rows, section_rows)))
        self._keys.write(keys, section_rows)

    def read_keys(self, at: int) -> tuple[Records, Counts]:
        """Return the keys of a range, subset after subset, and the offsets at which subsets begin and the last one
        ends.
        """
        return self._keys.read(at * len(SUBSETS), len(SUBSETS))

    def read_rows(self, at: int, subset: int, schema: pa.Schema) -> pa.RecordBatch | None:
        """Return the rows of a range and subset; None if the run has none."""
        with self.store.open_input(f"{self.stem}.rows") as file:
            start, end = read_offsets(file, self._keys.sections, at * len(SUBSETS) + subset, 1)
            if start == end:
                return None
            file.seek(int(start))
            message = pa.ipc.read_message(file.read_buffer(int(end - start)))
        return pa.ipc.read_record_batch(message, schema)

    @property
    def _keys(self) -> RecordFile:
        return RecordFile(self.store, f"{self.stem}.keys", KEY, self.ranges * len(SUBSETS))


def _write_sections(file: BinaryIO, rows: pa.Table, section_rows: Counts) -> Counts:
    """Write a record batch for each section that has rows, and return the byte offsets of all sections."""
    ends = np.concatenate(([0], np.cumsum(section_rows)))
    offsets = np.empty(len(ends), np.int64)
    with pa.ipc.new_stream(file, rows.schema, options=_COMPRESSED) as stream:
        # otherwise the schema would be at the beginning of the first section
        stream.write_batch(pa.RecordBatch.from_pylist([], rows.schema))
        for section, (start, end) in enumerate(pairwise(ends)):
            offsets[section] = file.tell()
            if end > start:
                stream.write_batch(rows.slice(start, end - start).combine_chunks().to_batches()[0])
        offsets[-1] = file.tell()
    return offsets
