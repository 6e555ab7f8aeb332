"""Measure the quality of resized pictures: Shoal's way and img2dataset's, compared with a full decode and Lanczos.

img2dataset decodes the whole picture with OpenCV, samples it by pixel areas and encodes it at quality 95. Both ways end
as JPEG and are decoded again. SSIM is Wang's and others' of 2004, on luma, with their Gaussian window and constants.
"""

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dataset.pictures.picture import Picture, Size
from dataset.pictures.prepare import prepare, target_size
from dataset.recipe.image_rules import ImageRules

RULES = ImageRules(min_bytes=0)
PICTURES = 250

Pixels = npt.NDArray[np.uint8]
Way = Callable[[bytes, Size], bytes]


def measure_quality(folder: Path) -> dict[str, float]:
    """Print CPU milliseconds, mean absolute difference (of 255) and SSIM of both ways -> the same by name."""
    received = [path.read_bytes() for path in sorted(folder.glob("**/*.jpg"))[:PICTURES]]
    whole = [Image.open(io.BytesIO(data)).convert("RGB") for data in received]
    sizes = [target_size(*image.size, RULES) for image in whole]
    references = [
        np.asarray(image.resize(size, Image.Resampling.LANCZOS)) for image, size in zip(whole, sizes, strict=True)
    ]
    print(f"\n{len(received)} pictures to 256 and JPEG, beside a full decode sampled by Lanczos:")
    found: dict[str, float] = {}
    ways: dict[str, Way] = {"ours": _ours, "img2dataset": _img2datasets}
    for name, way in ways.items():
        milliseconds, kept = _timed(way, received, sizes)
        pairs = list(zip(map(_decoded, kept), references, strict=True))
        difference = float(np.mean([np.abs(got.astype(np.int16) - want).mean() for got, want in pairs]))
        ssim = float(np.mean([_ssim(got, want) for got, want in pairs]))
        print(f"  {name:12} {milliseconds:5.2f} ms  mean absolute difference {difference:.2f}  SSIM {ssim:.4f}")
        found |= {f"{name}_ms": round(milliseconds, 2), f"{name}_ssim": round(ssim, 4)}
    return found


def _timed(way: Way, received: Sequence[bytes], sizes: Sequence[Size]) -> tuple[float, list[bytes]]:
    """The better of two passes, and what it made."""
    best, kept = float("inf"), list[bytes]()
    for _ in range(2):
        started = time.process_time()
        kept = [way(data, size) for data, size in zip(received, sizes, strict=True)]
        best = min(best, time.process_time() - started)
    return 1000 * best / len(received), kept


def _ours(data: bytes, _: Size) -> bytes:
    picture = prepare(data, RULES)
    assert isinstance(picture, Picture)
    return picture.data


def _img2datasets(data: bytes, size: Size) -> bytes:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    if pixels.shape[1::-1] != size:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _ssim(one: Pixels, other: Pixels) -> float:
    x, y = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64) for pixels in (one, other))
    mean_x, mean_y = _smooth(x), _smooth(y)
    variance_x, variance_y = _smooth(x * x) - mean_x**2, _smooth(y * y) - mean_y**2
    covariance = _smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((alike / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean())


def _smooth(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5), np.float64)
