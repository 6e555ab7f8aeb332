"""Files of numpy arrays (.npy), read and written in slices of rows."""

from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.errors import DatasetError
from dataset.store.mapped import map_file
from dataset.store.store import Store

Matrix = npt.NDArray[np.floating]


class NpyError(DatasetError):
    """A file does not contain the expected array."""


class NpyRows:
    """The rows of a two-dimensional array of floats in an open file."""

    def __init__(self, file: pa.NativeFile, path: str) -> None:
        """Read the header.

        Raises: NpyError when it is not a (N, D) array of floats in C order, or the file is cut off.
        """
        self._file = file
        self.path = path
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, self.dtype = read(file)
        except ValueError as error:
            raise NpyError(f"{path} is not a numpy array ({error}): write it again.") from error
        self.start = file.tell()
        if len(shape) != 2 or fortran or self.dtype.kind != "f":
            raise NpyError(
                f"{path} has the shape {shape} of {self.dtype}: a (rows, dimensions) array of floats is needed."
            )
        self.rows, self.dimensions = int(shape[0]), int(shape[1])
        self.row_bytes = self.dimensions * self.dtype.itemsize
        if file.size() < self.start + self.rows * self.row_bytes:
            raise NpyError(f"{path} is cut off: write it again.")

    def read(self, start: int, end: int) -> Matrix:
        """Return rows `start` to below `end` -> (end - start, D)."""
        self._file.seek(self.start + start * self.row_bytes)
        data = self._file.read_buffer((end - start) * self.row_bytes)
        rows: Matrix = np.frombuffer(data, self.dtype).reshape(end - start, self.dimensions)
        return rows


def open_rows(store: Store, path: str) -> NpyRows:
    """Open the array at `path`; its file is closed when the last reference to it is dropped.

    Raises: NpyError when it is not a (N, D) array of floats; StoreError when it is missing.
    """
    return NpyRows(store.open_input(path), path)


def map_rows(store: Store, path: str) -> Matrix | None:
    """Return the array at `path` mapped into memory -> (N, D), without an open file; None in an object store.

    Raises: NpyError when it is not a (N, D) array of floats; StoreError when it is missing.
    """
    place = store.local_path(path)
    if place is None:
        return None
    with store.open_input(path) as file:
        opened = NpyRows(file, path)
    mapped = map_file(place)[opened.start : opened.start + opened.rows * opened.row_bytes]
    rows: Matrix = mapped.view(opened.dtype).reshape(opened.rows, opened.dimensions)
    return rows


def write_header(file: BinaryIO, rows: int, dimensions: int, dtype: str = "<f2") -> None:
    """Write the header of a (rows, dimensions) array in C order."""
    described = {"descr": dtype, "fortran_order": False, "shape": (rows, dimensions)}
    np.lib.format.write_array_header_1_0(file, described)
