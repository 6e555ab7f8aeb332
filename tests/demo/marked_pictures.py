"""Draw the pictures on which the demo's watermark detector is trained, and those on which it is measured.

    training   marks and lettering in the style TRAINED over the grounds of `tests.demo.grounds`, and over scenes with
               some of the textures and shapes
    held out   marks and lettering in the style HELD_OUT over scenes with the other textures and shapes

A picture is packed as a JPEG, unpacked and squashed to a square, as in the swarm. Clean pictures are of two kinds: some
have opaque lettering, which is not a watermark. This module does without torch, so that the processes that draw start
at once.
"""

import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
from PIL import Image

from dataset.models.inputs import Pixels, Square
from tests.demo.grounds import draw_ground
from tests.demo.marks import HELD_OUT, TRAINED, Style, lettered, watermarked
from tests.demo.pictures import Shape, Texture, random_scene, render

SIDE = 64
CHUNK = 50  # pictures drawn under one seed
LETTERED_SHARE = 0.2  # of the clean pictures

_Scenes = tuple[tuple[Texture, ...], tuple[Shape, ...]]
TRAINED_SCENES: _Scenes = ((Texture.DOTTED, Texture.WAVY), (Shape.CIRCLE, Shape.TRIANGLE, Shape.STAR))
HELD_OUT_SCENES: _Scenes = (
    (Texture.PLAIN, Texture.STRIPED, Texture.CHECKERED), (Shape.SQUARE, Shape.CROSS, Shape.HEART)
)  # fmt: skip

_Picture = tuple[Pixels, int, bool]
"""A square, its label, and whether it has opaque lettering."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Squares (N, SIDE, SIDE, 3) uint8; labels (N,) int64, 1 for a watermark; whether they have opaque lettering."""

    squares: Pixels
    labels: npt.NDArray[np.int64]
    lettered: npt.NDArray[np.bool_]


def draw_training(count: int, seed: int, processes: int) -> Drawn:
    """Draw pairs of pictures with and without a watermark, of one ground each; rows 2n and 2n + 1 are a pair."""
    return _drawn(_draw_pairs, count, seed, processes)


def draw_held_out(count: int, seed: int, processes: int, *, marked: bool) -> Drawn:
    """Draw pictures that all have a watermark, or none."""
    return _drawn(_draw_marked if marked else _draw_clean, count, seed, processes)


def _drawn(draw: Callable[[tuple[int, int]], list[_Picture]], count: int, seed: int, processes: int) -> Drawn:
    seeds = [(seed, chunk) for chunk in range(-(-count // CHUNK))]
    if processes == 1:
        chunks = [draw(one) for one in seeds]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            chunks = list(pool.map(draw, seeds))
    squares, labels, letters = zip(*[picture for chunk in chunks for picture in chunk][:count], strict=True)
    return Drawn(np.stack(squares), np.array(labels, np.int64), np.array(letters, np.bool_))


def _draw_pairs(seed: tuple[int, int]) -> list[_Picture]:
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(CHUNK // 2):
        ground = draw_ground(_size(rng), rng) if rng.random() < 0.5 else _scene(TRAINED_SCENES, rng)
        drawn += [_marked(ground, TRAINED, rng), _clean(ground, TRAINED, rng)]
    return drawn


def _draw_marked(seed: tuple[int, int]) -> list[_Picture]:
    rng = np.random.default_rng(seed)
    return [_marked(_scene(HELD_OUT_SCENES, rng), HELD_OUT, rng) for _ in range(CHUNK)]


def _draw_clean(seed: tuple[int, int]) -> list[_Picture]:
    rng = np.random.default_rng(seed)
    return [_clean(_scene(HELD_OUT_SCENES, rng), HELD_OUT, rng) for _ in range(CHUNK)]


def _marked(picture: Image.Image, style: Style, rng: np.random.Generator) -> _Picture:
    return _as_filtered(watermarked(picture, style, rng), rng), 1, False


def _clean(picture: Image.Image, style: Style, rng: np.random.Generator) -> _Picture:
    letters = bool(rng.random() < LETTERED_SHARE)
    return _as_filtered(lettered(picture, style, rng) if letters else picture, rng), 0, letters


def _scene(kinds: _Scenes, rng: np.random.Generator) -> Image.Image:
    textures, shapes = kinds
    scene = replace(
        random_scene(rng), texture=textures[rng.integers(len(textures))], shape=shapes[rng.integers(len(shapes))]
    )
    return render(scene, _size(rng), rng)


def _size(rng: np.random.Generator) -> tuple[int, int]:
    short = int(rng.integers(140, 300))
    long = round(short * rng.uniform(1.0, 1.6))
    return (long, short) if rng.random() < 0.6 else (short, long)


def _as_filtered(picture: Image.Image, rng: np.random.Generator) -> Pixels:
    """Pack and unpack a picture, and squash it, (SIDE, SIDE, 3) uint8."""
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=int(rng.integers(75, 96)))
    return np.frombuffer(Square(SIDE)(Image.open(packed)), np.uint8).reshape(SIDE, SIDE, 3)
