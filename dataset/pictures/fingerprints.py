"""Fingerprints that recognise a picture after small changes: PDQ and dHash.

dHash is computed as follows: the picture is averaged to 8 rows of 9 cells (OpenCV's INTER_AREA on 8-bit RGB); a cell's
luma is 0.299 R + 0.587 G + 0.114 B, rounded to an integer; a bit is set if a cell is brighter than its left neighbour.
Bits are taken row by row from left to right, the first is the most significant of 64, and the result is a signed number
in two's complement. Uniform pictures have 0. Source: N. Krawetz, "Kind of Like That" (2013).
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from dataset.pictures.jpeg import Pixels
from dataset.pictures.pdq import pdq_of

_DHASH_BYTES = 8
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Both hashes of a picture; `pdq` is None if the picture has too little contrast."""

    pdq: bytes | None
    dhash: int

    def to_bytes(self) -> bytes:
        """Return the dHash, followed by the PDQ if there is one."""
        return self.dhash.to_bytes(_DHASH_BYTES, "big", signed=True) + (self.pdq or b"")

    @classmethod
    def from_bytes(cls, said: bytes) -> Self:
        """Read the output of `to_bytes`."""
        return cls(said[_DHASH_BYTES:] or None, int.from_bytes(said[:_DHASH_BYTES], "big", signed=True))


def fingerprint(pixels: Pixels) -> Fingerprint:
    """Return both hashes of (H, W, 3) RGB."""
    pdq = pdq_of(pixels)
    return Fingerprint(None if pdq is None else bytes.fromhex(pdq), dhash_of(pixels))


def dhash_of(pixels: Pixels) -> int:
    """Return the dHash of (H, W, 3) RGB as a signed 64-bit number."""
    cells = np.rint(cv2.resize(pixels, (9, 8), interpolation=cv2.INTER_AREA) @ _LUMA)  # (8, 9)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big", signed=True)
