"""Pixels of two pictures: alignment, difference, and the mask of what all members of a family share."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

SIDE = 256
MAX_SHIFT = 8
"""Pixels by which a generated picture may lie elsewhere."""
AGREE = 0.03
"""Difference up to which pixels of a family agree, of 1."""
MIN_FAMILY = 3
"""Fewer pictures may agree by chance in large uniform parts."""
MIN_OVERLAP = 64


@dataclass(frozen=True, slots=True)
class Aligned:
    """A generated picture beside a row's, both (256, 256, 3) float32 in 0 to 1; the row's is shifted, or mirrored."""

    generated: Floats
    original: Floats
    valid: Mask
    """(256, 256): pixels that both have."""
    mirrored: bool

    @property
    def difference(self) -> Floats:
        """Absolute difference of each pixel (256, 256), the mean of its colours; 0 outside `valid`."""
        found: Floats = np.abs(self.generated - self.original).mean(axis=2) * self.valid
        return found

    def rms(self, mask: Mask | None = None) -> float:
        """Return the root mean square of the difference, of all pixels or those of a mask; 1 for too few pixels."""
        inside = self.valid if mask is None else self.valid & mask
        if inside.sum() < MIN_OVERLAP:
            return 1.0
        return float(np.sqrt(np.square(self.generated - self.original)[inside].mean()))


def square(image: Image.Image) -> Pixels:
    """Return a picture as (256, 256, 3) uint8."""
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def align(generated_pixels: Pixels, original_pixels: Pixels) -> Aligned:
    """Return the better of the picture and its mirror image, each shifted by up to MAX_SHIFT pixels."""
    generated, original = _to_floats(generated_pixels), _to_floats(original_pixels)
    tried = [
        _shifted(generated, one, mirrored)
        for mirrored, one in ((False, original), (True, np.ascontiguousarray(original[:, ::-1])))
    ]
    return min((one for pair in tried for one in pair), key=Aligned.rms)


def _to_floats(pixels: Pixels) -> Floats:
    found: Floats = pixels.astype(np.float32) / np.float32(255)
    return found


def _shifted(generated: Floats, original: Floats, mirrored: bool) -> tuple[Aligned, Aligned]:
    """Return the pictures as they are, and with the shift that phase correlation finds."""
    whole = np.ones((SIDE, SIDE), bool)
    plain = Aligned(generated, original, whole, mirrored)
    window = cv2.createHanningWindow((SIDE, SIDE), cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(original.mean(axis=2), generated.mean(axis=2), window)
    moves = [round(move) for move in (down, right)]
    if not any(moves) or max(map(abs, moves)) > MAX_SHIFT:
        return plain, plain
    moved, valid = np.zeros_like(original), np.zeros((SIDE, SIDE), bool)
    to = tuple(slice(max(0, move), SIDE + min(0, move)) for move in moves)
    of = tuple(slice(max(0, -move), SIDE + min(0, -move)) for move in moves)
    moved[to], valid[to] = original[of], True
    return plain, Aligned(generated, moved, valid, mirrored)


def template_mask(family: Sequence[Pixels]) -> Mask:
    """Return the pixels in which all pictures of a family agree (256, 256), without parts narrower than 3 pixels.

    Fewer than MIN_FAMILY pictures have none.
    """
    if len(family) < MIN_FAMILY:
        return np.zeros((SIDE, SIDE), bool)
    stacked = np.stack(family)  # (N, 256, 256, 3)
    agree = (stacked.max(axis=0) - stacked.min(axis=0)).max(axis=2) < AGREE * 255
    opened = cv2.morphologyEx(agree.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    found: Mask = opened > 0
    return found
