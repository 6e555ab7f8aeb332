"""The fast path for JPEGs, nine of ten pictures: decode, shrink and encode without Pillow.

Invariant: pure. A picture that the fast path cannot handle (for example a damaged one) gives None, and Pillow decides.

libjpeg-turbo (through simplejpeg) decodes at 1/2, 1/4 or 1/8 of the size if at least DECODE_GAP times the target
remains. OpenCV then blurs the pixels as much as the remaining scale needs, and resamples them bicubically, which alone
would alias. docs/performance.md compares this with other ways of shrinking.

Rejected: libvips (slower); scales of eighths such as 5/8, which libjpeg-turbo decodes without SIMD, slower than the
whole; resizing YCbCr planes one by one (Pillow has them interleaved; PyAV would save 0.4 ms, at the cost of 104 MB of
image and a decoder that conceals damage).
"""

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from dataset.pictures.metadata import has_jpeg_end

Pixels = npt.NDArray[np.uint8]

DECODE_GAP = 1.5
"""Chosen from 1.0 (1.8 ms, SSIM 0.973), 1.5, and 2.0 (2.2 ms, SSIM 0.976)."""

_SOFTNESS = 0.42
"""The Gaussian's sigma is this times √(scale² − 1); the best of 0.30, 0.35, 0.42 and 0.50."""

_SOFTEN_ABOVE = 1.1
"""Smaller scales do not alias."""

_MARKER, _SCAN = 0xFF, 0xDA

MAX_SCANS = 32
"""Progressive pictures have about ten. Each scan processes all pixels, and thousands of scans fit in 64 KB."""

cv2.setNumThreads(1)  # the worker already has one thread per core


def shrink_jpeg(data: bytes, size: tuple[int, int], target: tuple[int, int]) -> Pixels | None:
    """Decode a three-colour JPEG of `size` to `target`, both (width, height) before rotation, as (H, W, 3) uint8 RGB.

    Return None if libjpeg finds anything wrong with it, for example truncation.
    """
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", **_reduced(size, target))
        return _resize(pixels, target)
    except (ValueError, cv2.error):
        return None


def read_colour_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a three-colour JPEG; None for anything else."""
    if _count_scans(data) > MAX_SCANS:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if colours in ("YCbCr", "RGB") else None


def with_end(data: bytes, max_pixels: int) -> bytes:
    """Return a JPEG that lacks only its end-of-image marker with that marker; any other as it is.

    Pillow refuses such a file. If more is missing, libjpeg would fill it with grey and only warn.
    """
    if has_jpeg_end(data) or _count_scans(data) > MAX_SCANS:
        return data
    ended = data.removesuffix(b"\xff") + b"\xff\xd9"
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(ended)
        if height * width <= max_pixels:
            space = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
            simplejpeg.decode_jpeg(ended, space, min_width=1, min_height=1)  # raises where libjpeg only warns
            return ended
    except ValueError:
        pass
    return data


def _count_scans(data: bytes) -> int:
    """Return the number of possible starts of a scan; bytes.count takes four times as long (70 µs for 72 KB)."""
    values = np.frombuffer(data, dtype=np.uint8)
    return int(np.count_nonzero((values[:-1] == _MARKER) & (values[1:] == _SCAN)))


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode (H, W, 3) RGB with halved chroma, as Pillow does by default."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), max(1, quality), "RGB", "420"))


def _reduced(size: tuple[int, int], target: tuple[int, int]) -> dict[str, int]:
    """Return simplejpeg's options for the smallest of 1/1, 1/2, 1/4 and 1/8 that leaves DECODE_GAP times the target.

    Pictures to be shrunk get plain chroma upsampling, which is invisible then and saves 4 % of the time.
    """
    divisor = 1
    if size != target:
        while divisor < 8 and all(
            side / (2 * divisor) >= wanted * DECODE_GAP for side, wanted in zip(size, target, strict=True)
        ):
            divisor *= 2
    if size == target:
        return {}
    return {"min_width": -(-size[0] // divisor), "min_height": -(-size[1] // divisor), "fastupsample": True}


def _resize(pixels: Pixels, target: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    if (width, height) == target:
        return pixels
    scale = max(width / target[0], height / target[1])
    if scale > _SOFTEN_ABOVE:
        sigma = _SOFTNESS * (scale * scale - 1) ** 0.5
        window = 2 * round(2 * sigma) + 1  # two sigmas to each side
        pixels = cv2.GaussianBlur(pixels, (max(3, window), max(3, window)), sigma)  # type: ignore[assignment]
    return cv2.resize(pixels, target, interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]
