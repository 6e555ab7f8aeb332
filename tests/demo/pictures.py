"""Pictures that a very small CLIP can tell apart.

What its scene does not say of a picture (tone of the ground, size and place within the cluster, turn, grain) is
nuisance, drawn from the generator that is handed in: the same generator state gives the same picture, byte for byte.

Invariants: whatever the size asked for, figures keep their proportion of the shorter side, so that a picture says the
same at 64 px as at 2,400; and grain covers the ground, so that a JPEG of 256 px is above the 5,000 bytes under which a
download is dropped (plain shapes are not). Ground tones are muted, figures are not, so a ground is never the figure's
colour.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tests.demo.captions import LANGUAGES, caption
from tests.demo.scenes import (
    MISMATCH,
    Colour,
    Position,
    Scene,
    Shape,
    Texture,
    different,
    mismatched_scene,
    random_scene,
)

__all__ = [  # scenes and captions come with the pictures: who draws one says something of it
    "LANGUAGES",
    "MISMATCH",
    "Colour",
    "Position",
    "Scene",
    "Shape",
    "Texture",
    "caption",
    "different",
    "mismatched_scene",
    "random_scene",
    "render",
]

Size = tuple[int, int]
Plane = npt.NDArray[np.float32]

WORKING_PIXELS = 640
"""Shorter side above which a picture is drawn smaller and enlarged: 2,400 px would take seconds."""

RGB: dict[Colour, tuple[int, int, int]] = {
    Colour.RED: (215, 25, 30),
    Colour.ORANGE: (255, 130, 0),
    Colour.YELLOW: (250, 225, 20),
    Colour.GREEN: (20, 140, 45),
    Colour.BLUE: (25, 65, 215),
    Colour.PURPLE: (140, 30, 165),
    Colour.BLACK: (12, 12, 12),
    Colour.WHITE: (252, 252, 252),
}
CLUSTER_CENTRES: dict[Position, tuple[float, float]] = {  # of the width and height
    Position.CENTRE: (0.5, 0.5),
    Position.TOP_LEFT: (0.27, 0.27),
    Position.TOP_RIGHT: (0.73, 0.27),
    Position.BOTTOM_LEFT: (0.27, 0.73),
    Position.BOTTOM_RIGHT: (0.73, 0.73),
}
CLUSTER_SIDE = 0.5  # of the shorter side
LAYOUTS: dict[int, list[list[tuple[float, float]]]] = {  # places of the figures, in cluster sides from its centre
    1: [[(0.0, 0.0)]],
    2: [[(-0.25, 0.0), (0.25, 0.0)], [(0.0, -0.25), (0.0, 0.25)], [(-0.22, -0.22), (0.22, 0.22)]],
    3: [[(0.0, -0.24), (-0.25, 0.22), (0.25, 0.22)], [(-0.25, -0.22), (0.25, -0.22), (0.0, 0.24)]],
    4: [[(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25)]],
}


def render(scene: Scene, size: Size = (256, 256), rng: np.random.Generator | None = None) -> Image.Image:
    """Paint a scene as an RGB image of `size` (width, height); without a generator always the same picture."""
    rng = rng if rng is not None else np.random.default_rng(0)
    enlarge = max(1.0, min(size) / WORKING_PIXELS)
    drawn = (round(size[0] / enlarge), round(size[1] / enlarge))
    ground = Image.fromarray(_ground(scene.texture, drawn, rng))
    ground.paste(RGB[scene.colour], mask=_figures(scene, drawn, rng))
    picture = _grained(ground, rng)
    return picture if drawn == size else picture.resize(size, Image.Resampling.BICUBIC)


def _ground(texture: Texture, size: Size, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Paint the ground: two muted tones mixed by the texture's plane, (H, W, 3) uint8."""
    base = rng.uniform(95, 175) + rng.uniform(-14, 14, 3)
    contrast = rng.uniform(38, 60) * rng.choice((-1, 1))
    plane = TEXTURES[texture](size, rng)  # (H, W) in 0..1
    return np.asarray(np.clip(base + contrast * plane[..., None], 0, 255), np.uint8)


def _coordinates(size: Size, rng: np.random.Generator) -> tuple[Plane, Plane, float]:
    """Return x and y in pixels from a random origin, and the length of a texture's period in pixels."""
    period = min(size) / rng.uniform(6.5, 9.0)  # about 8 px once the picture has been shrunk to 64
    x0, y0 = rng.uniform(0, period, 2)
    x, y = np.meshgrid(np.arange(size[0], dtype=np.float32) + x0, np.arange(size[1], dtype=np.float32) + y0)
    return x.astype(np.float32), y.astype(np.float32), period


def _plain(size: Size, rng: np.random.Generator) -> Plane:
    slope = np.linspace(0, rng.uniform(0, 0.6), size[1], dtype=np.float32)  # a little light from above
    return np.repeat(slope[:, None], size[0], axis=1)


def _striped(size: Size, rng: np.random.Generator) -> Plane:
    x, _, period = _coordinates(size, rng)
    return np.asarray((x / period) % 1 < 0.5, np.float32)


def _checkered(size: Size, rng: np.random.Generator) -> Plane:
    x, y, period = _coordinates(size, rng)
    return np.asarray((np.floor(x / period) + np.floor(y / period)) % 2, np.float32)


def _dotted(size: Size, rng: np.random.Generator) -> Plane:
    x, y, period = _coordinates(size, rng)
    return np.asarray(np.hypot((x / period) % 1 - 0.5, (y / period) % 1 - 0.5) < 0.3, np.float32)


def _wavy(size: Size, rng: np.random.Generator) -> Plane:
    x, y, period = _coordinates(size, rng)
    return np.asarray((y / period + 0.4 * np.sin(x / period * math.pi)) % 1 < 0.5, np.float32)


TEXTURES: dict[Texture, Callable[[Size, np.random.Generator], Plane]] = {
    Texture.PLAIN: _plain,
    Texture.STRIPED: _striped,
    Texture.CHECKERED: _checkered,
    Texture.DOTTED: _dotted,
    Texture.WAVY: _wavy,
}


def _figures(scene: Scene, size: Size, rng: np.random.Generator) -> Image.Image:
    """Draw the figures as a mask ("L"), at twice the size and halved, which smooths the edges."""
    width, height = size[0] * 2, size[1] * 2
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    side = CLUSTER_SIDE * min(width, height)
    centre_x, centre_y = CLUSTER_CENTRES[scene.position]
    layouts = LAYOUTS[scene.count]
    radius = side * (rng.uniform(0.27, 0.4) if scene.count == 1 else rng.uniform(0.2, 0.24))
    turn = rng.uniform(-0.15, 0.15)
    for dx, dy in layouts[rng.integers(len(layouts))]:
        jitter_x, jitter_y = rng.uniform(-0.015, 0.015, 2)
        x = centre_x * width + side * (dx + jitter_x)
        y = centre_y * height + side * (dy + jitter_y)
        draw.polygon([(x + radius * px, y + radius * py) for px, py in _outline(scene.shape, turn)], fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _outline(shape: Shape, turn: float) -> list[tuple[float, float]]:
    """Return a shape's outline in a circle of radius 1, turned by `turn` radians, y downwards."""
    match shape:
        case Shape.CIRCLE:
            points = _ring([0.95] * 40)
        case Shape.SQUARE:
            points = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
        case Shape.TRIANGLE:
            points = [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]
        case Shape.STAR:
            points = _ring([1.1, 0.45] * 5)
        case Shape.CROSS:
            arm = 0.3
            points = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
            points += [(arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)]
        case Shape.HEART:
            angles = [math.tau * step / 48 for step in range(48)]
            points = [(math.sin(a) ** 3, _heart_y(a)) for a in angles]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]


def _ring(radii: list[float]) -> list[tuple[float, float]]:
    angles = [math.tau * step / len(radii) for step in range(len(radii))]
    return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)]


def _heart_y(angle: float) -> float:
    return -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 16


def _grained(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add grain of about ±14 levels, the same in all channels: it costs a JPEG bytes, and the eye little."""
    pixels = np.asarray(picture, dtype=np.float32)
    grain = rng.normal(0, 14, pixels.shape[:2]).astype(np.float32)[..., None]
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
