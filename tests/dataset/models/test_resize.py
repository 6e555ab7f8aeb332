"""The quick resize gives the sizes of torchvision's and nearly its pixels, and is used in half precision only."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataset.models.torchvision_shim  # noqa: F401 - before open_clip, which imports torchvision
from dataset.models.clip import load_model, preparation_of
from dataset.models.resize import QuickResize
from dataset.models.towers import Precision
from dataset.recipe.recipe import ModelRecipe

import open_clip  # isort: skip

DEMO = Path(__file__).parents[2] / "demo" / "clip"
TOKENIZER = open_clip.get_tokenizer("ViT-B-32")


def noisy(width: int, height: int) -> Image.Image:
    """Return a smooth picture with some noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([127 + 100 * np.sin(x / (5 + i * 7) + y / (9 + i)) for i in range(3)], -1)
    noise = np.random.default_rng(width + height).integers(-20, 20, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (201, 307), (224, 224), (224, 500), (64, 64), (5_000, 7), (1, 3)])
def test_pixels_are_almost_those_of_open_clip(size: tuple[int, int]) -> None:
    steps = open_clip.image_transform(224, is_train=False)
    exact = preparation_of(steps, TOKENIZER, 224).pixels(noisy(*size))
    quick = preparation_of(steps, TOKENIZER, 224, Precision.FLOAT16)
    assert quick.steps[0] == QuickResize(224, "bicubic")
    assert pickle.loads(pickle.dumps(quick.steps[0])) == quick.steps[0]  # as decoders receive it
    difference = np.abs(quick.pixels(noisy(*size)).astype(int) - exact)
    assert difference.shape == (224, 224, 3)
    assert difference.max() <= 2
    assert np.mean(difference > 0) < 0.01


@pytest.mark.parametrize("mode", ["longest", "squash"])
def test_other_ways_to_resize_stay_as_they_are(mode: str) -> None:
    steps = open_clip.image_transform(224, is_train=False, resize_mode=mode)
    assert preparation_of(steps, TOKENIZER, 224, Precision.FLOAT16).steps == tuple(steps.transforms[:-2])


def test_a_model_resizes_as_its_precision_allows(tmp_path: Path) -> None:
    for path in DEMO.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes().replace(b'"squash"', b'"shortest"'))
    kinds = {}
    for precision in Precision:
        model = load_model(ModelRecipe("demo", str(tmp_path), 0.28), device="cpu", precision=precision)
        kinds[precision] = type(model.preparation.steps[0]).__name__
    assert kinds == {"float32": "Resize", "float16": "QuickResize", "bfloat16": "QuickResize"}


def test_a_picture_that_needs_too_much_memory_is_refused() -> None:
    with pytest.raises(MemoryError, match=r"\(1000000, 1\) cannot be resized"):
        QuickResize(8_192, "bicubic")(Image.new("RGB", (1_000_000, 1)))  # more bytes than addresses
