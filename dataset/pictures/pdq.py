"""PDQ, the perceptual hash of 256 bits by which services name pictures that nobody may keep.

Invariant: one picture, shrunk or encoded anew, differs by some 10 bits of 256, two pictures by some 128; a match is a
distance of at most 31 (Hashing the PDQ way, Facebook 2019; ThreatExchange recommends 31).

Source: "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm" (Facebook, 2019) and its reference
implementation (facebook/ThreatExchange, pdq/cpp). Luma is blurred twice by a box, 64 by 64 of its pixels are taken, and
of their cosine transform the 16 by 16 lowest frequencies but the constant ones are compared with their median. All of
it up to the median is linear in rows and in columns, so it is two matrices of (64, side) here, one for each side.
On the same pixels it gives the bits of `pdqhash` 0.2.8: on all of 638 pictures, photographs among them.

Rejected: `pdqhash` itself, which is built from source where it is installed, and takes four times as long.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from dataset.pictures.jpeg import Pixels

PDQ_PIXELS = 512
"""The longer side, brought to it first. Against the reference on the whole picture, 25 pictures of 1,000 by 750 with a
photograph's spectrum, kept at 256 on the shorter or the longer side, then differ by 7 bits in the mean and 12 at most;
hashed as they were kept, by 15 to 18 and 26 at most, too near to 31."""
MIN_QUALITY = 50
"""Of 100; the reference says to trust no hash of a picture as flat as that."""

_CELLS = 64
_FREQUENCIES = 16
_MIN_SIDE = 5
"""The reference hashes nothing smaller."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_COSINES = (
    np.sqrt(2 / _CELLS)
    * np.cos(np.pi / 2 / _CELLS * np.outer(np.arange(1, _FREQUENCIES + 1), 2 * np.arange(_CELLS) + 1))
).astype(np.float32)  # (16, 64): row i is frequency i + 1

Floats = npt.NDArray[np.float32]


def pdq_of(pixels: Pixels) -> str | None:
    """Return the PDQ of (H, W, 3) RGB as 64 hex digits; None where the picture is too flat to be told by it."""
    height, width = pixels.shape[:2]
    scale = PDQ_PIXELS / max(height, width)
    scaled_height, scaled_width = (max(1, round(side * scale)) for side in (height, width))
    if min(scaled_height, scaled_width) < _MIN_SIDE:
        return None
    if scale < 1:
        pixels = cv2.resize(pixels, (scaled_width, scaled_height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    luma = pixels.astype(np.float32) @ _LUMA  # (H, W)
    rows, columns = _sampling(luma.shape[0], scaled_height), _sampling(luma.shape[1], scaled_width)
    cells: Floats = rows @ luma @ columns.T  # (64, 64)
    return _bits(cells) if _quality(cells) >= MIN_QUALITY else None


def _bits(cells: Floats) -> str:
    """Compare each frequency with the lower median; the last one is the most significant bit."""
    spectrum = (_COSINES @ cells @ _COSINES.T).ravel()
    middle = len(spectrum) // 2 - 1
    return np.packbits((spectrum > np.partition(spectrum, middle)[middle])[::-1]).tobytes().hex()


def _quality(cells: Floats) -> int:
    """Sum the differences of neighbours in whole hundredths of white; the reference divides by 90 and stops at 100."""
    steps = sum(int(np.abs(np.trunc(np.diff(cells, axis=axis) * (100 / 255))).sum()) for axis in (0, 1))
    return min(100, steps // 90)


@lru_cache(maxsize=256)  # 22 MB; the shorter side of a shard's pictures is one number, the longer one of some hundreds
def _sampling(side: int, scaled: int) -> Floats:
    """Return the matrix (64, side) that enlarges a picture's side to `scaled`, blurs it and takes 64 of its pixels."""
    blurring = _blurring(scaled)
    if side == scaled:
        return blurring
    enlarging = cv2.resize(np.eye(side, dtype=np.float32), (side, scaled), interpolation=cv2.INTER_CUBIC)
    return np.asarray(blurring @ enlarging, np.float32)


@lru_cache(maxsize=64)
def _blurring(side: int) -> Floats:
    """Return the matrix (64, side) that blurs a side twice by a box of a 128th and takes 64 of its pixels.

    The box is cut off at the ends; one of an even width reaches one pixel farther to the right.
    """
    width = -(-side // (2 * _CELLS))
    places = np.arange(side)
    firsts = np.maximum(places - (width - 1) // 2, 0)
    ends = np.minimum(places + width // 2 + 1, side)
    shares = 1 / (ends - firsts)
    weights = np.zeros((_CELLS, side), np.float32)
    for cell, centre in enumerate(((np.arange(_CELLS) + 0.5) * side / _CELLS).astype(int)):
        for place in range(firsts[centre], ends[centre]):
            weights[cell, firsts[place] : ends[place]] += shares[centre] * shares[place]
    return weights
