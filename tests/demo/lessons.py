"""Draw the training data of the demo's CLIP: pictures as they reach the filter, and every caption as tokens.

A picture goes the way it will go in the swarm: rendered in some size and shape, packed as a JPEG, unpacked, squashed to
the model's 64 x 64. This module does without torch, so that the processes that draw start at once.
"""

import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.demo.pictures import render
from tests.demo.scenes import Colour, Position, Scene, Shape, Texture, random_scene

MODEL_PIXELS = 64
SCENES = [Scene(*attributes) for attributes in product(Shape, Colour, range(1, 5), Position, Texture)]
SCENE_NUMBERS = {scene: number for number, scene in enumerate(SCENES)}
CHUNK = 500  # pictures drawn under one seed


@dataclass(frozen=True, slots=True)
class Lessons:
    """Pictures (N, 64, 64, 3) uint8, and the number in SCENES of what each shows (N,) int64."""

    pictures: npt.NDArray[np.uint8]
    scenes: npt.NDArray[np.int64]


def draw_lessons(count: int, seed: int, processes: int) -> Lessons:
    """Draw `count` pictures of random scenes; the same seed gives the same pictures, however many processes draw."""
    chunks = -(-count // CHUNK)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(_draw_chunk, [seed] * chunks, range(chunks)))
    return Lessons(
        pictures=np.concatenate([lessons.pictures for lessons in drawn])[:count],
        scenes=np.concatenate([lessons.scenes for lessons in drawn])[:count],
    )


def _draw_chunk(seed: int, chunk: int) -> Lessons:
    rng = np.random.default_rng((seed, chunk))
    scenes = [random_scene(rng) for _ in range(CHUNK)]
    pictures = np.stack([_as_filtered(scene, rng) for scene in scenes])
    return Lessons(pictures, np.array([SCENE_NUMBERS[scene] for scene in scenes], np.int64))


def _as_filtered(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render a scene in a size of the wild, pack and unpack it, and squash it, (64, 64, 3) uint8."""
    short, stretch = int(rng.integers(120, 257)), rng.uniform(1.0, 1.6)
    size = (short, round(short * stretch)) if rng.random() < 0.4 else (round(short * stretch), short)
    packed = io.BytesIO()
    render(scene, size, rng).save(packed, "JPEG", quality=int(rng.integers(75, 96)))
    squashed = Image.open(packed).resize((MODEL_PIXELS, MODEL_PIXELS), Image.Resampling.BICUBIC)
    return np.asarray(squashed, np.uint8)
