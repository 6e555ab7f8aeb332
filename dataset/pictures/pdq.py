"""PDQ, the perceptual hash of 256 bits by which services name pictures that nobody may keep.

Invariant: one picture, shrunk or encoded anew, differs by some 10 bits of 256, two pictures by some 128; a match is a
distance of at most 31 (Hashing the PDQ way, Facebook 2019; ThreatExchange recommends 31).

Source: the reference implementation, through `pdqhash`. That is an extra, since it is built from source where it is
installed (no wheels at 0.2.8): only a worker that needs PDQ needs it.
"""

import cv2
import numpy as np
import numpy.typing as npt

from dataset.errors import DatasetError

PDQ_PIXELS = 512
"""The longer side, brought to it first. Against the reference on the whole picture, 25 pictures of 1,000 by 750 with a
photograph's spectrum, kept at 256 on the shorter or the longer side, then differ by 7 bits in the mean and 12 at most;
hashed as they were kept, by 15 to 18 and 26 at most, too near to 31. It costs 6 ms of CPU a picture, 39 at 1,024."""
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

    height, width = pixels.shape[:2]
    scale = PDQ_PIXELS / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = cv2.resize(pixels, size, interpolation=how)  # type: ignore[assignment]
    bits, quality = pdqhash.compute(np.ascontiguousarray(pixels))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex() if quality >= MIN_QUALITY else None
