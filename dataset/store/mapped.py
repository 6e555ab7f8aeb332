"""Files of the local disk as arrays of bytes that are mapped into memory."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """Return a file's bytes -> (N,) uint8, read-only; a file that is not empty.

    The mapping holds no file descriptor, unlike mmap.mmap's, so that thousands of files can be mapped at a time. It
    ends when the last array that shows a part of it is dropped.

    Raises: OSError when the file cannot be opened.
    """
    with pa.memory_map(str(path)) as file:
        first = file.read_buffer(1)  # a longer one would be read from the disk at once
        return np.frombuffer(pa.foreign_buffer(first.address, file.size(), first), np.uint8)
