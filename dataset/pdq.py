"""PDQ, the perceptual hash of 256 bits by which services name pictures that nobody may keep.

Invariant: one picture, shrunk or encoded anew, differs by some 10 bits of 256, two pictures by some 128; a match is a
distance of at most 31 (Hashing the PDQ way, Facebook 2019; ThreatExchange recommends 31).

Source: the reference implementation, through `pdqhash`. That is an extra, since it is built from source where it is
installed (no wheels at 0.2.8): only a worker that needs PDQ needs it.
"""

import numpy as np
import numpy.typing as npt

from dataset.errors import DatasetError

PDQ_PIXELS = 512
"""The reference shrinks to this first: it then works on 64 by 64 whatever came."""
MIN_QUALITY = 50
"""Of 100; the reference says to trust no hash of a picture as flat as that."""


class PdqError(DatasetError):
    """PDQ is wanted and cannot be computed here."""


def require_pdq() -> None:
    """Raise PdqError unless PDQ can be computed."""
    try:
        import pdqhash  # noqa: F401
    except ImportError as error:
        raise PdqError("PDQ is asked for, and pdqhash is not installed: install Shoal with its extra [pdq]") from error


def pdq_of(pixels: npt.NDArray[np.uint8]) -> str | None:
    """Return the PDQ of (H, W, 3) RGB as 64 hex digits; None where the picture is too flat to be told by it.

    Raises: PdqError when pdqhash is not installed.
    """
    require_pdq()
    import pdqhash

    bits, quality = pdqhash.compute(np.ascontiguousarray(pixels))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex() if quality >= MIN_QUALITY else None
