"""Whether near-duplicates harm training: the demo's small CLIP with them, without them, and with weights.

    python -m tests.training.duplicates [--originals 3000] [--copies 3000] [--steps 240] [--seeds 5] [--first-seed 0]

Pictures are drawn as the demo's are; copies of some, packed anew in other sizes, are added in groups whose sizes follow
a power law. The demo's trained model embeds them, `dataset dedup` finds the groups, and fresh models are trained for
equally many steps on all rows, on representatives alone, and on all rows with the table's column weight_inverse_sqrt.
Held-out pictures have no copies. The last line is JSON: for each way the mean and the standard deviation over the seeds
of R@1 among 100 scenes, and for the other two the mean difference from all rows with its standard error, seed by seed.
"""

import argparse
import io
import json
import tempfile
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import dataset.models.torchvision_shim  # noqa: F401 - before open_clip, which imports torchvision
from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.side_tables import read_side_tables
from dataset.store.store import Store
from tests.demo.captions import LANGUAGES
from tests.demo.duplicate_checks import AT
from tests.demo.lessons import MODEL_PIXELS, SCENE_NUMBERS, Lessons, draw_lessons
from tests.demo.pictures import render
from tests.demo.scenes import random_scene
from tests.demo.train_clip import BATCH, FOLDER, VARIANTS, caption_tokens, learning_rate, loss_of, measure, normalised
from tests.planted import MODEL, put_release

import open_clip  # isort: skip
from safetensors.torch import load_file  # isort: skip

WAYS = ("all rows", "without near-duplicates", "with weights")
HELD_OUT = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=int, default=3_000)
    parser.add_argument("--copies", type=int, default=3_000)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = json.loads((FOLDER / "open_clip_config.json").read_text())
    lessons, of = draw(asked.originals, asked.copies)
    weights, found = chances(lessons, of, config)
    print(json.dumps(found), flush=True)
    tokens, held_out = caption_tokens(config["model_cfg"]), draw_lessons(HELD_OUT, seed=2, processes=1)
    recalls: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        for way in WAYS:
            start = time.process_time()
            model = train(config, lessons, tokens, weights[way], asked.steps, seed)
            results = measure(model, config, held_out, tokens)
            recalls[way].append(float(np.mean([one.recall_at_1 for one in results])))
            print(f"seed {seed}, {way}: {recalls[way][-1]:.4f}, {time.process_time() - start:.0f} CPU-s", flush=True)
    print(json.dumps(found | {"steps": asked.steps, "seeds": asked.seeds} | summary(recalls)))


def draw(originals: int, copies: int) -> tuple[Lessons, npt.NDArray[np.int64]]:
    """Return pictures, and which original each of them shows."""
    rng = np.random.default_rng(11)
    sizes = rng.zipf(1.7, originals).clip(max=originals // 10) - 1
    of = np.concatenate([np.arange(originals), np.repeat(np.arange(originals), sizes)[:copies]])
    scenes = [random_scene(rng) for _ in range(originals)]
    pictures = np.empty((len(of), MODEL_PIXELS, MODEL_PIXELS, 3), np.uint8)
    for original in range(originals):
        shape = (int(rng.integers(120, 257)), int(rng.integers(120, 257)))
        whole = render(scenes[original], shape, np.random.default_rng((12, original)))
        for row in np.flatnonzero(of == original).tolist():
            scale = 1.0 if row < originals else rng.uniform(0.6, 1.2)
            pictures[row] = packed(whole, scale, int(rng.integers(75, 96)))
    numbers = np.array([SCENE_NUMBERS[scene] for scene in scenes], np.int64)
    return Lessons(pictures, numbers[of]), of


def packed(whole: Image.Image, scale: float, quality: int) -> npt.NDArray[np.uint8]:
    """Resize, pack and unpack a picture, and squash it as the model does."""
    file = io.BytesIO()
    size = round(whole.width * scale), round(whole.height * scale)
    whole.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    squashed = Image.open(file).resize((MODEL_PIXELS, MODEL_PIXELS), Image.Resampling.BICUBIC)
    return np.asarray(squashed, np.uint8)


def chances(
    lessons: Lessons, of: npt.NDArray[np.int64], config: dict[str, Any]
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, Any]]:
    """Return how often each row is drawn, by way, and what the search found."""
    model = open_clip.CLIP(**config["model_cfg"]).eval()
    halves = load_file(FOLDER / "open_clip_model.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in halves.items()})
    with torch.inference_mode():
        pixels = normalised(lessons.pictures, config["preprocess_cfg"])
        vectors = torch.cat([model.encode_image(part, normalize=True) for part in torch.split(pixels, 256)])
    with tempfile.TemporaryDirectory(prefix="shoal-train-") as folder:
        release = put_release(Store.open(folder), "train", [vectors.numpy().astype(np.float16)])
        search(release, Options(model=MODEL, at=AT))
        (file,) = read_side_tables(release)["duplicates"].files
        table = release.store.read_table(release.path(file.path))
    representative = table["representative"].to_numpy()
    kept = representative == np.arange(len(of))
    found = {
        "rows": len(of),
        "representatives": int(kept.sum()),
        "planted_copies": len(of) - len(np.unique(of)),
        "wrong_members": int((of[representative] != of).sum()),
        "largest_group": int(table["group_size"].to_numpy().max()),
    }
    weights = (np.ones(len(of)), kept.astype(np.float64), table["weight_inverse_sqrt"].to_numpy().astype(np.float64))
    return dict(zip(WAYS, (one / one.sum() for one in weights), strict=True)), found


def train(
    config: dict[str, Any],
    lessons: Lessons,
    tokens: torch.Tensor,
    chance: npt.NDArray[np.float64],
    steps: int,
    seed: int,
) -> Any:
    """Train a fresh model for some steps; a seed gives the same first weights in every way."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = open_clip.CLIP(**config["model_cfg"])
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step / steps)
        chosen = rng.choice(len(chance), BATCH, p=chance)
        scenes = torch.from_numpy(lessons.scenes[chosen])
        spoken = rng.integers(len(LANGUAGES), size=BATCH), rng.integers(VARIANTS, size=BATCH)
        images = model.encode_image(normalised(lessons.pictures[chosen], config["preprocess_cfg"]), normalize=True)
        texts = model.encode_text(tokens[scenes, spoken[0], spoken[1]].long(), normalize=True)
        loss = loss_of(images, texts, scenes, model.logit_scale.exp().clamp(max=100))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def summary(recalls: dict[str, list[float]]) -> dict[str, Any]:
    """Return R@1 by way, and the differences from all rows."""
    said: dict[str, Any] = {}
    base = np.array(recalls[WAYS[0]])
    for way, values in recalls.items():
        found = np.array(values)
        said[way] = {"r_at_1": round(float(found.mean()), 4), "deviation": spread(found)}
        if way != WAYS[0]:
            away = found - base
            said[way] |= {"difference": round(float(away.mean()), 4), "error": spread(away) / len(away) ** 0.5}
    return said


def spread(values: npt.NDArray[np.float64]) -> float:
    """Return the standard deviation; 0 of one value."""
    return round(float(values.std(ddof=1)), 4) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
