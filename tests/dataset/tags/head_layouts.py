"""State dicts in the layouts of published heads, with random weights."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
State = dict[str, Rows]


def linear(name: str, inputs: int, outputs: int, rng: np.random.Generator) -> State:
    weight = rng.normal(0, 1 / np.sqrt(inputs), (outputs, inputs)).astype(np.float32)
    return {f"{name}weight": weight, f"{name}bias": rng.normal(0, 0.1, outputs).astype(np.float32)}


def chain(names: Sequence[str], widths: Sequence[int], rng: np.random.Generator) -> State:
    state: State = {}
    for name, inputs, outputs in zip(names, widths[:-1], widths[1:], strict=True):
        state |= linear(name, inputs, outputs, rng)
    return state


def nsfw(widths: Sequence[int], rng: np.random.Generator) -> State:
    """LAION's Keras heads as torch has them; widths (512, 32, 32, 1) for ViT-B/32, (768, 64, 512, 256, 1) for L/14."""
    norm = {
        "norm.mean": rng.normal(0, 0.03, widths[0]).astype(np.float32),
        "norm.variance": rng.uniform(1e-4, 2e-3, widths[0]).astype(np.float32),
    }
    return norm | chain([f"linear_{n}." for n in range(1, len(widths))], widths, rng)


def nsfw_h14(rng: np.random.Generator) -> State:
    names = [f"layers.{n}." for n in (0, 3, 6, 9, 12, 15, 16)]
    state = chain(names, (1024, 1024, 2048, 1024, 256, 128, 16, 1), rng)
    return state | {"layers.16.bias": np.array([0.5], np.float32)}  # else some rows end outside 0…1


def aesthetic_v1(dimensions: int, rng: np.random.Generator) -> State:
    return linear("", dimensions, 1, rng)


def aesthetic_v2(rng: np.random.Generator) -> State:
    return chain([f"layers.{n}." for n in (0, 2, 4, 6, 7)], (768, 1024, 128, 64, 16, 1), rng)


def unit_rows(count: int, dimensions: int, rng: np.random.Generator) -> Rows:
    rows = rng.normal(size=(count, dimensions))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
