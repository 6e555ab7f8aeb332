"""Digests in hex and as bytes, and a fingerprint of a pair, computed for whole columns without a Python call per
row.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_DIGIT = np.zeros(256, np.uint8)
_DIGIT[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_WORD = 8


def digest_bytes(column: pa.ChunkedArray, size: int) -> pa.Array:
    """Return digests of `size` bytes, given in hex -> (N,) fixed_size_binary[size], null where there is none."""
    valid = column.is_valid()
    digits = pc.fill_null(column, "0" * 2 * size).combine_chunks()
    if pc.any(pc.not_equal(pc.binary_length(digits), 2 * size)).as_py():
        raise ValueError(f"a digest does not have {2 * size} hexadecimal digits")
    nibbles = _DIGIT[_data(digits)].reshape(-1, 2)
    packed = pa.py_buffer(nibbles[:, 0] << 4 | nibbles[:, 1])
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(column), [None, packed])
    return pc.if_else(valid.combine_chunks(), values, pa.scalar(None, values.type))


def fingerprints(*columns: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return a number for each row, made from the lengths and the last 8 bytes of its texts, (N,) uint64.

    It distinguishes two pairs that have the same 64-bit hash by chance; which row is published does not depend on it.
    """
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        texts = column.combine_chunks()
        offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
        starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
        at = ends[:, None] - np.arange(_WORD, 0, -1)
        data = np.frombuffer(texts.buffers()[2] or b"\0", np.uint8)
        words = np.where(at >= starts[:, None], data[np.maximum(at, 0)], 0).astype(np.uint8).view("<u8").ravel()
        for value in (words, (ends - starts).view(np.uint64)):
            mixed = (mixed ^ value) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing, 2^64 / golden ratio
            mixed ^= mixed >> np.uint64(32)
    return mixed


def _data(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the bytes of a string array, end to end."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    return data[offsets[0] : offsets[-1]] if len(offsets) else data
