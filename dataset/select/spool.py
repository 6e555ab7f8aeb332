"""Buckets on the local disk, by ranges of priority: an external shuffle of rows and pictures.

The first bits of a row's priority determine its bucket; each bucket is then sorted in memory.
"""

import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Priorities = npt.NDArray[np.uint64]

_HEAD = struct.Struct("<QqI8s")
"""A picture's priority, sample, number of bytes, and file extension."""
MAX_BUCKETS = 256
"""Files that are open at a time."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is in its tar, once for each sample."""

    priority: int
    sample: int
    ending: str
    data: bytes


class Spool:
    """Rows and pictures of `buckets` buckets in a folder; `add_picture` may be called from several threads."""

    def __init__(self, folder: Path, schema: pa.Schema, buckets: int) -> None:
        self.buckets = 1 << (min(buckets, MAX_BUCKETS) - 1).bit_length()
        self._folder = folder
        self._pictures: list[BinaryIO] = []
        self._rows: list[pa.RecordBatchWriter] = []
        self._schema = schema
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        for at in range(self.buckets):
            self._pictures.append((self._folder / f"{at}.pictures").open("w+b"))
            self._rows.append(pa.ipc.new_file(str(self._folder / f"{at}.rows"), self._schema))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._pictures:
            file.close()
        self.end_rows()

    def add_rows(self, rows: pa.Table, priorities: Priorities) -> None:
        """Put rows into their buckets."""
        buckets = self._buckets_of(priorities)
        for at in np.unique(buckets):
            self._rows[at].write_table(rows.filter(pa.array(buckets == at)))

    def end_rows(self) -> None:
        """Finish adding rows; from now on they can be read."""
        while self._rows:
            self._rows.pop().close()

    def add_picture(self, picture: Picture) -> None:
        """Put a picture into its bucket."""
        head = _HEAD.pack(picture.priority, picture.sample, len(picture.data), picture.ending.encode())
        file = self._pictures[int(self._buckets_of(np.array([picture.priority], np.uint64))[0])]
        with self._lock:
            file.write(head)
            file.write(picture.data)

    def rows(self, bucket: int) -> pa.Table:
        """Return the rows of a bucket."""
        with pa.OSFile(str(self._folder / f"{bucket}.rows")) as file:
            return pa.ipc.open_file(file).read_all()

    def pictures(self, bucket: int) -> Iterator[Picture]:
        """Yield the pictures of a bucket by priority."""
        file = self._pictures[bucket]
        places = []
        file.seek(0)
        while head := file.read(_HEAD.size):
            priority, sample, size, ending = _HEAD.unpack(head)
            places.append((priority, sample, ending.rstrip(b"\0").decode(), file.tell(), size))
            file.seek(size, 1)
        for priority, sample, ending, place, size in sorted(places):
            file.seek(place)
            yield Picture(priority, sample, ending, file.read(size))

    def _buckets_of(self, priorities: Priorities) -> npt.NDArray[np.int64]:
        if self.buckets == 1:
            return np.zeros(len(priorities), np.int64)
        return (priorities >> np.uint64(65 - self.buckets.bit_length())).astype(np.int64)
