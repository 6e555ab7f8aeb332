"""PDQ, the 256-bit perceptual hash used by lists of pictures that must not be kept.

Invariant: a picture that is resized or re-encoded differs by about 10 bits of 256, two different pictures by about 128;
a match is a distance of at most 31 (Facebook 2019, and ThreatExchange's recommendation).

Source: "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm" (Facebook, 2019) and its reference
implementation (facebook/ThreatExchange, pdq/cpp). Luma is blurred twice with a box filter and sampled at 64 by 64
pixels; of the cosine transform, the 16 by 16 lowest frequencies except the constant ones are compared with their
median. Everything before the median is linear in rows and columns, so it is one (64, side) matrix for each side here.
On the same pixels the bits equal those of `pdqhash` 0.2.8 for all of 638 pictures, photographs among them.

Rejected: `pdqhash` itself, which is compiled during installation and takes four times as long.
"""

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from dataset.pictures.jpeg import Pixels

PDQ_PIXELS = 512
"""The longer side is first brought to this length. Measured on 25 pictures of 1,000 by 750 with a photograph's
spectrum, stored at 256 on the shorter or longer side: their hashes differ from the original's by 7 bits on average and
12 at most; without resizing first, by 15 to 18 and 26 at most, too close to 31."""
MIN_QUALITY = 50
"""The scale ends at 100; the reference advises against hashes of pictures with less contrast."""

_CELLS = 64
_FREQUENCIES = 16
_MIN_SIDE = 5
"""The reference does not hash smaller pictures."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_COSINES = (
    np.sqrt(2 / _CELLS)
    * np.cos(np.pi / 2 / _CELLS * np.outer(np.arange(1, _FREQUENCIES + 1), 2 * np.arange(_CELLS) + 1))
).astype(np.float32)  # (16, 64): row i is frequency i + 1

Floats = npt.NDArray[np.float32]


def pdq_of(pixels: Pixels) -> str | None:
    """Return the PDQ of (H, W, 3) RGB as 64 hex digits; None if the picture is too small or has too little contrast."""
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
    """Return the bits for each frequency above the lower median; the last frequency is the most significant bit."""
    spectrum = (_COSINES @ cells @ _COSINES.T).ravel()
    middle = len(spectrum) // 2 - 1
    return np.packbits((spectrum > np.partition(spectrum, middle)[middle])[::-1]).tobytes().hex()


def _quality(cells: Floats) -> int:
    """Return the sum of neighbours' differences in whole hundredths of white, divided by 90, at most 100, as the
    reference.
    """
    steps = sum(int(np.abs(np.trunc(np.diff(cells, axis=axis) * (100 / 255))).sum()) for axis in (0, 1))
    return min(100, steps // 90)


@lru_cache(maxsize=256)  # 22 MB; a shard's pictures have one shorter side and some hundred longer ones
def _sampling(side: int, scaled: int) -> Floats:
    """Return the matrix (64, side) that resizes a picture's side to `scaled`, blurs it and samples 64 pixels."""
    blurring = _blurring(scaled)
    if side == scaled:
        return blurring
    enlarging = cv2.resize(np.eye(side, dtype=np.float32), (side, scaled), interpolation=cv2.INTER_CUBIC)
    return np.asarray(blurring @ enlarging, np.float32)


@lru_cache(maxsize=64)
def _blurring(side: int) -> Floats:
    """Return the matrix (64, side) that blurs a side twice with a box of a 128th and samples 64 pixels.

    The box is cut off at the ends; a box of even width extends one pixel further to the right.
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
