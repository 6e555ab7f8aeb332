"""Numbers of 16 bits, in which embeddings are stored, as numbers of 32 bits, in which they are computed with."""

import numpy as np
import numpy.typing as npt

_AT_ONCE = 1 << 17
"""Numbers that stay in a processor's second cache meanwhile."""
_LARGE = 2.0**31
"""A sum of squares below this has no number from 65,536 on, which float16 cannot hold."""


def widen(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Return a copy of rows as float32; of float16, in a quarter of the time of numpy's astype.

    The bits of a float16, moved to the places of a float32, are the number times 2^-112: the biases of the exponents
    differ by 112. Infinity and NaN become numbers from 65,536 on, and are left to astype.
    """
    if rows.dtype != np.float16:
        return rows.astype(np.float32)
    found = np.empty(rows.shape, np.float32)
    step = max(1, _AT_ONCE // max(1, rows[:1].size))
    for start in range(0, len(rows), step):
        part, source = found[start : start + step], rows[start : start + step]
        bits = part.view(np.int32)
        bits[...] = source.view(np.int16)  # the sign fills the upper half
        bits <<= 13
        bits &= np.int32(-0x70000001)  # bits 28 to 30 hold copies of the sign
        part *= np.float32(2.0**112)
        numbers = part.reshape(-1)
        if numbers @ numbers >= _LARGE:
            part[...] = source
    return found
