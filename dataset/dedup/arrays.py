"""Files of named arrays that are read in ranges of rows: what the steps hand to each other.

    8 bytes: the header's length, little-endian │ JSON {name: [dtype, shape, offset]} │ arrays, each at a multiple of 64

Equal arrays give equal bytes. Rejected: .npz, of whose arrays only the whole can be read.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset import strict_json
from dataset.store.mapped import map_file
from dataset.store.store import Store, StoreError

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]

MAX_OPEN = 16_384
"""Files that a process keeps mapped at a time; Linux allows 65,530 mappings."""
_ALIGNMENT = 64
_NEAR_ROWS = 256
"""Rows this near to each other are read together from an object store."""


def write_arrays(store: Store, path: str, arrays: Mapping[str, Array]) -> None:
    """Write arrays as one file, whole or not at all."""
    described: dict[str, list[Any]] = {}
    offset = 0
    for name, array in arrays.items():
        described[name] = [array.dtype.str, list(array.shape), offset]
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = strict_json.dumps(described).encode()
    header += b" " * (-(len(header) + 8) % _ALIGNMENT)
    with store.write(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
            file.write(bytes(-array.nbytes % _ALIGNMENT))


class Arrays:
    """An open file of arrays."""

    def __init__(self, store: Store, path: str) -> None:
        """Read the header.

        Raises: StoreError when the file is missing or damaged.
        """
        self._path = path
        local = store.local_path(path)
        self._file = None if local is not None and local.is_file() else store.open_input(path)
        self._mapped: npt.NDArray[np.uint8] | None = None
        try:
            if self._file is None and local is not None:
                self._mapped = map_file(local)
            length = int.from_bytes(self._header(0, 8), "little")
            self._described: dict[str, list[Any]] = json.loads(self._header(8, length))
        except ValueError as error:
            raise StoreError(f"{path} is not a file of arrays ({error}): delete it and begin again.") from error
        self._start = 8 + length

    def _header(self, start: int, length: int) -> bytes:
        """Return bytes from the beginning of the file, which is read once."""
        if self._mapped is not None:
            return self._mapped[start : start + length].tobytes()
        assert self._file is not None
        return bytes(self._file.read(length))

    def __contains__(self, name: str) -> bool:
        return name in self._described

    def rows(self, name: str) -> int:
        """Return the length of an array."""
        return int(self._described[name][1][0])

    def read(self, name: str, start: int = 0, end: int | None = None) -> Array:
        """Return rows `start` to below `end` of an array; on the local disk they are mapped."""
        dtype, shape, offset = self._described[name]
        end = shape[0] if end is None else end
        kind = np.dtype(dtype)
        if self._mapped is not None:
            place = self._start + offset
            whole = self._mapped[place : place + kind.itemsize * int(np.prod(shape, dtype=np.int64))]
            found: Array = whole.view(kind).reshape(shape)[start:end]
            return found
        assert self._file is not None
        row = kind.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._file.seek(self._start + offset + start * row)
        wanted = (end - start) * row
        data = self._file.read_buffer(wanted)
        if len(data) < wanted:
            raise StoreError(f"{self._path} is cut off: delete it and begin again.")
        return np.frombuffer(data, kind).reshape(end - start, *shape[1:])

    def section(self, name: str, at: int, offsets: str) -> Array:
        """Return section `at` of an array; `offsets` names the array of the sections' (n + 1) borders."""
        start, end = self.read(offsets, at, at + 2).tolist()
        return self.read(name, start, end)

    def take(self, name: str, at: Integers) -> Array:
        """Return the rows of an array at these ascending positions."""
        if not len(at):
            dtype, shape, _ = self._described[name]
            return np.empty((0, *shape[1:]), np.dtype(dtype))
        first, last = int(at[0]), int(at[-1])
        if self._mapped is not None or last - first < 2 * len(at):
            return np.asarray(self.read(name, first, last + 1)[at - first])
        runs = np.split(at, np.flatnonzero(np.diff(at) > _NEAR_ROWS) + 1)
        return np.concatenate([self.read(name, int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs])


def in_sections(keys: Integers, sections: int) -> tuple[Integers, Integers]:
    """Return the order that sorts rows by their section, stably, and the sections' (n + 1) borders."""
    order = np.argsort(keys, kind="stable")
    return order, np.searchsorted(keys[order], np.arange(sections + 1))
