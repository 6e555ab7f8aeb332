"""Pictures to train the watermark detector on, unlike those of the crawl.

A picture is a ground (clouds, a gradient, cells, bricks, hatching, rings or a plaid) with some patches on it. No ground
and no figure is one of `tests.demo.pictures`.
"""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.float32]
Size = tuple[int, int]


def draw_ground(size: Size, rng: np.random.Generator) -> Image.Image:
    """Draw a picture of `size` (width, height) in RGB."""
    plane = GROUNDS[rng.integers(len(GROUNDS))](size, rng)[..., None]  # (H, W, 1) in 0..1
    first = rng.uniform(70, 190) + rng.uniform(-25, 25, 3)
    second = first + rng.uniform(25, 70) * rng.choice((-1, 1)) + rng.uniform(-10, 10, 3)
    pixels = np.ascontiguousarray(first + (second - first) * plane, np.float32)
    for _ in range(rng.integers(0, 5)):
        _patch(pixels, rng)
    pixels += rng.normal(0, rng.uniform(6, 18), pixels.shape[:2]).astype(np.float32)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _patch(pixels: Plane, rng: np.random.Generator) -> None:
    """Draw a patch of a random colour: a part of an ellipse, a rectangle or a polygon."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    colour = tuple(float(level) for level in rng.uniform(0, 255, 3))
    centre = (int(rng.integers(width)), int(rng.integers(height)))
    match rng.integers(3):
        case 0:
            axes = tuple(int(radius) for radius in short * rng.uniform(0.08, 0.3, 2))
            turn, end = float(rng.uniform(0, 180)), float(rng.uniform(150, 360))
            cv2.ellipse(pixels, centre, axes, turn, 0, end, colour, -1, cv2.LINE_AA)
        case 1:
            corner = tuple(int(place) for place in np.array(centre) + short * rng.uniform(0.15, 0.5, 2))
            cv2.rectangle(pixels, centre, corner, colour, -1)
        case _:
            points = np.array(centre) + short * rng.uniform(-0.3, 0.3, (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(pixels, [points.astype(np.int32)], colour, cv2.LINE_AA)


def _clouds(size: Size, rng: np.random.Generator) -> Plane:
    plane = np.zeros((size[1], size[0]), np.float32)
    for octave in range(1, 7):
        cells = rng.random((2**octave + 1, 2**octave + 1)).astype(np.float32)
        plane += cv2.resize(cells, size, interpolation=cv2.INTER_CUBIC) * float(rng.uniform(0.3, 0.8)) ** octave
    return np.asarray((plane - plane.min()) / (np.ptp(plane) + 1e-6), np.float32)


def _gradient(size: Size, rng: np.random.Generator) -> Plane:
    x, y = _turned(size, rng)
    return np.asarray((x - x.min()) / np.ptp(x) if rng.random() < 0.5 else np.hypot(x, y) / max(size), np.float32)


def _cells(size: Size, rng: np.random.Generator) -> Plane:
    points = rng.random((int(rng.integers(4, 60)), 2)).astype(np.float32)
    x, y = np.meshgrid(np.linspace(0, 1, 64, dtype=np.float32), np.linspace(0, 1, 64, dtype=np.float32))
    nearest = ((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2).argmin(axis=2)
    tones = rng.random(len(points)).astype(np.float32)[nearest]
    return np.asarray(cv2.resize(tones, size, interpolation=cv2.INTER_NEAREST), np.float32)


def _bricks(size: Size, rng: np.random.Generator) -> Plane:
    x, y = _turned(size, rng, 0.1)
    high, wide = min(size) * rng.uniform(0.04, 0.15), min(size) * rng.uniform(0.1, 0.3)
    row = np.floor(y / high)
    joint = ((y / high) % 1 < 0.15) | ((x / wide + 0.5 * (row % 2)) % 1 < 0.08)
    return np.asarray(np.where(joint, 1.0, 0.2 + 0.2 * np.sin(row * 7 + np.floor(x / wide) * 3)), np.float32)


def _hatching(size: Size, rng: np.random.Generator) -> Plane:
    x, y = _turned(size, rng)
    period = min(size) * rng.uniform(0.03, 0.2)
    lines = (x / period) % 1 < rng.uniform(0.1, 0.6)
    return np.asarray(lines | ((y / period) % 1 < 0.2) if rng.random() < 0.4 else lines, np.float32)


def _rings(size: Size, rng: np.random.Generator) -> Plane:
    x, y = _turned(size, rng)
    radius = np.hypot(x - rng.uniform(x.min(), x.max()), y - rng.uniform(y.min(), y.max()))
    return np.asarray(0.5 + 0.5 * np.sin(radius / (min(size) * rng.uniform(0.01, 0.06))), np.float32)


def _plaid(size: Size, rng: np.random.Generator) -> Plane:
    x, y = _turned(size, rng)
    across, along = (min(size) * rng.uniform(0.02, 0.1) for _ in range(2))
    return np.asarray(0.5 + 0.25 * np.sin(x / across) + 0.25 * np.sign(np.sin(y / along)), np.float32)


GROUNDS: tuple[Callable[[Size, np.random.Generator], Plane], ...] = (
    _clouds, _gradient, _cells, _bricks, _hatching, _rings, _plaid,
)  # fmt: skip


def _turned(size: Size, rng: np.random.Generator, most: float = 3.2) -> tuple[Plane, Plane]:
    """Return the pixels' x and y, (H, W), turned by an angle of at most `most` radians."""
    x, y = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    angle = rng.uniform(-most, most)
    return (
        np.asarray(x * np.cos(angle) - y * np.sin(angle), np.float32),
        np.asarray(x * np.sin(angle) + y * np.cos(angle), np.float32),
    )
