"""Models and samples for the check: random weights, made once for all steps, and the demo's trained model."""

import os
from pathlib import Path

import numpy as np
import open_clip
import torch

from dataset.formats.shards import Sample
from dataset.models.clip import ClipModel, load_model
from dataset.models.decoders import Decoders
from dataset.models.towers import Precision
from dataset.recipe.recipe import ModelRecipe
from tests.benchmarks.bench_filter import WORDS, picture
from tests.demo.captions import caption
from tests.demo.pictures import random_scene, render

DEMO = Path(__file__).parents[1] / "demo" / "clip"
Batch = tuple[torch.Tensor, torch.Tensor]


def device_name() -> str:
    """Return the device that is checked."""
    return os.environ.get("SHOAL_GPU_CHECK_DEVICE", "cuda")


def model_named(name: str, folder: Path, device: str, precision: Precision | None = None) -> ClipModel:
    """Load the demo's model, or one of open_clip's architectures with random weights of a fixed seed."""
    if name == "demo":
        return load_model(ModelRecipe("demo", str(DEMO), 0.28), device=device, precision=precision)
    weights = folder / f"{name}.pt"
    if not weights.exists():
        torch.manual_seed(7)
        torch.save(open_clip.create_model(name).state_dict(), weights)
    return load_model(ModelRecipe(name, str(weights), 0.28), device=device, precision=precision)


def web_samples(count: int, seed: int = 0) -> list[Sample]:
    """Return samples as a download leaves them: 64 different pictures, alt texts of 3 to 60 words, most of them few."""
    rng = np.random.default_rng(seed)
    pictures = [picture(rng).data for _ in range(64)]
    lengths = np.clip(rng.lognormal(2.2, 0.6, count), 3, 60).astype(int)
    return [
        sample(number, pictures[number % 64], " ".join(rng.choice(WORDS, length)))
        for number, length in enumerate(lengths)
    ]


def painted_samples(count: int, seed: int = 0) -> list[Sample]:
    """Return painted scenes for the demo's model; every other one has the caption of another scene."""
    import io

    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        scene, other = random_scene(rng), random_scene(rng)
        file = io.BytesIO()
        render(scene, (256, 256), rng).save(file, "JPEG", quality=90)
        found.append(sample(number, file.getvalue(), caption(scene if number % 2 else other, "en")))
    return found


def sample(number: int, image: bytes, text: str) -> Sample:
    """Return a sample; its size is not used."""
    return Sample(f"{number:015d}", image, "http://a.example", text, "en", "en", 1, number, 256, 256, 256, 256)


def prepared(model: ClipModel, samples: list[Sample], decoders: Decoders, *, pinned: bool) -> Batch:
    """Decode and tokenize samples as the filter does: (N, H, W, 3) uint8 and (N, context) int32."""
    shape = (len(samples), model.preparation.height, model.preparation.width, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
    good, tokens = decoders.prepare(samples, model.preparation, pixels.numpy(), age=0).result()
    assert all(good)
    whole = torch.from_numpy(tokens.copy())
    return pixels, whole.pin_memory() if pinned else whole
