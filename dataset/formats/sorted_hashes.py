"""A file of sorted int64, read in slices by value: `ids/` of a release, which may have billions.

Hashes are uniform, so the position of a value is estimated from its size and then found within a window of the file.
This takes two reads where a bisection takes thirty; if values are not uniform, it only takes more reads.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.store.store import Store

_WINDOW = 65_536
"""Values that are read around an estimated position; among 6 billion values the error is about as large."""


@dataclass(frozen=True, slots=True)
class SortedHashes:
    """The file at `path`, little-endian int64."""

    store: Store
    path: str

    def read(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """Return the values from `start` to below `end` -> (N,) int64.

        Raises: StoreError when the file is missing.
        """
        with self.store.open_input(self.path) as file:
            size = file.size() // 8
            first, last = _lower_bound(file, size, start), _lower_bound(file, size, end)
            return _values(file, first, last)


def _lower_bound(file: pa.NativeFile, size: int, value: int) -> int:
    """Return the position of the first value that is not below `value`."""
    low, high = 0, size  # the answer is in [low, high]
    guess = min(size, max(0, int((value + 2**63) / 2**64 * size)))
    width = _WINDOW
    while low < high:
        first, last = max(low, guess - width), min(high, guess + width)
        window = _values(file, first, last)
        if value > window[-1]:
            low = last
        elif value <= window[0]:
            high = first
        else:
            return first + int(np.searchsorted(window, value))
        width *= 4
        guess = max(low, min(high, guess))
    return low


def _values(file: pa.NativeFile, first: int, last: int) -> npt.NDArray[np.int64]:
    file.seek(first * 8)
    return np.frombuffer(file.read_buffer((last - first) * 8), "<i8").astype(np.int64, copy=False)
