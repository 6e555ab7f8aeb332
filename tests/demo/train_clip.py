"""Trains the demo's CLIP: `python -m tests.demo.train_clip [--minutes 8]` writes weights and card to tests/demo/clip/.

open_clip's own architecture and tokenizer, made small (clip/open_clip_config.json). The loss is InfoNCE, in which pairs
that show the same scene do not count as wrong, plus 4 x a sigmoid loss on 15 (cos - 0.27): InfoNCE alone ranks well,
but leaves a quarter of wrong pairs above the crawl's thresholds of 0.28 and 0.26, because it has no reason to put them
anywhere in particular. The length of the run is set in minutes, so the learning rate follows the clock.

Rejected: a smaller vocabulary of its own (5.5 of 7.5 MB are token embeddings, but then nothing of open_clip's loading
and tokenizing is exercised).
"""

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

import dataset.models.torchvision_shim  # noqa: F401 - before open_clip, which imports torchvision
from tests.demo.captions import LANGUAGES, caption
from tests.demo.lessons import SCENES, Lessons, draw_lessons
from tests.demo.scenes import MISMATCH, different

import open_clip  # isort: skip

FOLDER = Path(__file__).parent / "clip"
BATCH = 64
LEARNING_RATE = 1.5e-3
SIGMOID_WEIGHT, SIGMOID_SLOPE, SIGMOID_CENTRE = 4.0, 15.0, 0.27
VARIANTS = 2
RANKED = 100  # distinct scenes among whose captions the right one is looked for
THRESHOLDS = {"en": 0.28, "de": 0.26, "es": 0.26}  # as in the default recipe


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What one language's captions came to on held-out pictures; shares are 0 to 1."""

    language: str
    threshold: float
    matched_kept: float
    mismatched_dropped: float
    recall_at_1: float


def caption_tokens(config: dict[str, Any]) -> Tensor:
    """Tokenize every caption there is, once: (scenes, languages, variants, context) int32, 5.5 MB."""
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    texts = [caption(scene, language, v) for scene in SCENES for language in LANGUAGES for v in range(VARIANTS)]
    tokens: Tensor = tokenizer(texts)
    return tokens.to(torch.int32).view(len(SCENES), len(LANGUAGES), VARIANTS, -1)


def normalised(pictures: np.ndarray[Any, Any], preprocess: dict[str, Any]) -> Tensor:
    """Turn (N, 64, 64, 3) uint8 into what the model reads, (N, 3, 64, 64) float32."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(preprocess[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


def loss_of(images: Tensor, texts: Tensor, scenes: Tensor, scale: Tensor) -> Tensor:
    """Return the loss of a batch of unit rows (B, D) whose row i shows scene `scenes[i]`."""
    cosines = images @ texts.T  # (B, B)
    own = torch.eye(len(scenes), dtype=torch.bool)
    same = scenes[:, None] == scenes[None, :]
    logits = (scale * cosines).masked_fill(same & ~own, -math.inf)
    target = torch.arange(len(scenes))
    contrast = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    margins = SIGMOID_SLOPE * (cosines - SIGMOID_CENTRE)
    right, wrong = functional.logsigmoid(margins[same]).mean(), functional.logsigmoid(-margins[~same]).mean()
    return contrast - SIGMOID_WEIGHT * (right + wrong) / 2


def learning_rate(done: float) -> float:
    """Return the rate after the share `done` of the run: 2 % warm-up, then a cosine to zero."""
    return LEARNING_RATE * min(done / 0.02, (1 + math.cos(math.pi * min(done, 1.0))) / 2)


def train(config: dict[str, Any], lessons: Lessons, tokens: Tensor, minutes: float) -> tuple[Any, int]:
    """Train a fresh model on `lessons` for some minutes; gives it and the number of steps."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = open_clip.CLIP(**config["model_cfg"])
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    start, step, running = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - start) / (minutes * 60)) < 1:
        optimizer.param_groups[0]["lr"] = learning_rate(done)
        chosen = rng.integers(len(lessons.scenes), size=BATCH)
        scenes = torch.from_numpy(lessons.scenes[chosen])
        spoken = rng.integers(len(LANGUAGES), size=BATCH), rng.integers(VARIANTS, size=BATCH)
        images = model.encode_image(normalised(lessons.pictures[chosen], config["preprocess_cfg"]), normalize=True)
        texts = model.encode_text(tokens[scenes, spoken[0], spoken[1]].long(), normalize=True)
        loss = loss_of(images, texts, scenes, model.logit_scale.exp().clamp(max=100))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, running = step + 1, 0.99 * running + 0.01 * loss.item() if step else loss.item()
        if step % 200 == 0:
            print(f"{done:5.0%}  step {step:5d}  loss {running:.3f}", flush=True)
    return model.eval(), step


@torch.inference_mode()
def measure(model: Any, config: dict[str, Any], lessons: Lessons, tokens: Tensor) -> list[Accuracy]:
    """Measure on pictures that were not trained on: both shares at the threshold, and R@1 among RANKED scenes."""
    pixels = normalised(lessons.pictures, config["preprocess_cfg"])
    images = torch.cat([model.encode_image(part, normalize=True) for part in torch.split(pixels, 256)])
    _, first = np.unique(lessons.scenes, return_index=True)
    distinct = torch.from_numpy(np.random.default_rng(4).permutation(first)[: len(first) // RANKED * RANKED])
    other = _mismatched(lessons)
    results = []
    for index, language in enumerate(LANGUAGES):
        texts = _texts(model, tokens, lessons.scenes, index)
        right = (images * texts).sum(1)
        wrong = (images * texts[other]).sum(1)
        found = [
            (images[group] @ texts[group].T).argmax(1) == torch.arange(RANKED) for group in distinct.view(-1, RANKED)
        ]
        results.append(
            Accuracy(
                language=language,
                threshold=THRESHOLDS[language],
                matched_kept=float((right >= THRESHOLDS[language]).float().mean()),
                mismatched_dropped=float((wrong < THRESHOLDS[language]).float().mean()),
                recall_at_1=float(torch.cat(found).float().mean()),
            )
        )
    return results


def _texts(model: Any, tokens: Tensor, scenes: np.ndarray[Any, Any], language: int) -> Tensor:
    rows = tokens[torch.from_numpy(scenes), language, torch.arange(len(scenes)) % VARIANTS].long()
    return torch.cat([model.encode_text(part, normalize=True) for part in torch.split(rows, 256)])


def _mismatched(lessons: Lessons) -> Tensor:
    """Return for each picture the number of another one whose scene differs in at least MISMATCH attributes."""
    rng = np.random.default_rng(3)
    others = np.zeros(len(lessons.scenes), np.int64)
    for row, scene in enumerate(lessons.scenes):
        while different(SCENES[scene], SCENES[lessons.scenes[others[row]]]) < MISMATCH:
            others[row] = rng.integers(len(lessons.scenes))
    return torch.from_numpy(others)


def card(results: Sequence[Accuracy], minutes: float, steps: int, pictures: int, held_out: int) -> str:
    """Write the model's card (Markdown)."""
    rows = "\n".join(
        f"| {r.language} | {r.threshold} | {r.matched_kept:.1%} | {r.mismatched_dropped:.1%} | {r.recall_at_1:.1%} |"
        for r in results
    )
    return f"""# The demo's CLIP

A CLIP of 3.7 million parameters that knows the generated pictures of `tests/demo/pictures.py` and nothing else. It is
for the demo and the tests: it says nothing about photographs. How to name real weights stands in the README.

| language | threshold | matched pairs at or above | mismatched pairs below | R@1 |
| --- | --- | --- | --- | --- |
{rows}

Measured with the fp16 weights in this folder on {held_out} pictures that were not trained on (of scenes that may have
been). Mismatched: at least {MISMATCH} of five attributes differ. R@1: the right caption comes first among those of
{RANKED} scenes drawn at random; chance finds {1 / RANKED:.0%}.

Trained by `python -m tests.demo.train_clip --minutes {minutes:g}` on a processor of {os.cpu_count()} cores: {steps}
steps of {BATCH} over {pictures} pictures, captions in {", ".join(LANGUAGES)}; no data from anywhere else.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's CLIP.")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--pictures", type=int, default=32_000)
    parser.add_argument("--held-out", type=int, default=1_500)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    config = json.loads((FOLDER / "open_clip_config.json").read_text())
    tokens = caption_tokens(config["model_cfg"])
    lessons = draw_lessons(options.pictures, seed=1, processes=os.cpu_count() or 1)
    held_out = draw_lessons(options.held_out, seed=2, processes=os.cpu_count() or 1)
    model, steps = train(config, lessons, tokens, options.minutes)
    model = model.half().float()  # what is measured is what is shipped
    options.folder.mkdir(parents=True, exist_ok=True)
    halves = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    save_file(halves, options.folder / "open_clip_model.safetensors")
    results = measure(model, config, held_out, tokens)
    text = card(results, options.minutes, steps, options.pictures, options.held_out)
    (options.folder / "MODEL.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
