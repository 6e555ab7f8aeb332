"""Ranges of signed 64-bit numbers: the numbers of a range have the same first bits; ranges are in signed order."""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

_SIGN = np.uint64(1 << 63)


def range_of(numbers: Integers, ranges: int) -> Integers:
    """Return the range of each number -> (N,) int64; `ranges` is a power of two."""
    if ranges == 1:
        return np.zeros(len(numbers), np.int64)
    shift = np.uint64(65 - ranges.bit_length())
    return ((np.ascontiguousarray(numbers).view(np.uint64) ^ _SIGN) >> shift).astype(np.int64)


def range_start(at: int, ranges: int) -> int:
    """Return the first number of a range; 2**63 for the range after the last one."""
    return at * (2**64 // ranges) - 2**63
