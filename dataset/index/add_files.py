"""Files of the add step: rows of one slice by (list, id), so that a range of lists is one read.

head      8 int64: MAGIC, rows, ranges, describe units, code bytes, dimensions, 0, 0
ranges    (ranges + 1,) int64 rows before each range of lists
pairs     (describe units + 1,) int64 rows, by id, before each range of ids
ids       (N,) int64, lists (N,) uint32                                  by list and id
pair ids  (N,) int64, pair lists (N,) uint32, pair hashes (N,) int64     by id
codes     (N, code bytes) uint8, if the kind has codes of its own
rows      (N, D) float16
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.index_files import SearchIndexError

MAGIC = int.from_bytes(b"SHOALADD", "little")
HEAD = 8
_COPIED_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Section:
    """An array in the file: rows of `width` values of a type from `start` on."""

    start: int
    dtype: np.dtype[Any]
    width: int

    def read(self, file: pa.NativeFile, first: int, end: int) -> npt.NDArray[Any]:
        """Read rows `first` to below `end` -> (n,), or (n, width) for more than one value."""
        size = self.width * self.dtype.itemsize
        file.seek(self.start + first * size)
        data = file.read_buffer((end - first) * size)
        found = np.frombuffer(data, self.dtype)
        return found if self.width == 1 else found.reshape(end - first, self.width)


@dataclass(frozen=True, slots=True)
class AddHead:
    """The sizes that give the place of each section."""

    rows: int
    ranges: int
    describe_units: int
    code_bytes: int
    dimensions: int

    @property
    def sections(self) -> dict[str, Section]:
        """The sections by name."""
        found, start = {}, HEAD * 8
        for name, dtype, width, rows in (
            ("ranges", "<i8", 1, self.ranges + 1),
            ("pairs", "<i8", 1, self.describe_units + 1),
            ("ids", "<i8", 1, self.rows),
            ("lists", "<u4", 1, self.rows),
            ("pair_ids", "<i8", 1, self.rows),
            ("pair_lists", "<u4", 1, self.rows),
            ("pair_hashes", "<i8", 1, self.rows),
            ("codes", "|u1", self.code_bytes, self.rows),
            ("vectors", "<f2", self.dimensions, self.rows),
        ):
            found[name] = Section(start, np.dtype(dtype), width)
            start += np.dtype(dtype).itemsize * width * rows
        return found

    def to_bytes(self) -> bytes:
        """Return the head of the file."""
        values = (MAGIC, self.rows, self.ranges, self.describe_units, self.code_bytes, self.dimensions, 0, 0)
        return np.array(values, "<i8").tobytes()


def read_head(file: pa.NativeFile, path: str) -> AddHead:
    """Read the head of a file.

    Raises: SearchIndexError when it is not one of the add step.
    """
    file.seek(0)
    values = np.frombuffer(file.read_buffer(HEAD * 8), "<i8")
    if len(values) != HEAD or values[0] != MAGIC:
        raise SearchIndexError(f"{path} is damaged: begin anew with --restart.")
    return AddHead(*(int(one) for one in values[1:6]))


def blocks(order: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> Iterator[bytes]:
    """Yield values in an order, a few rows at a time: a whole copy would double the memory of a unit."""
    for start in range(0, len(order), _COPIED_ROWS):
        yield values[order[start : start + _COPIED_ROWS]].tobytes()
