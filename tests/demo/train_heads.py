"""Puts the demo's heads into the store: `python -m tests.demo.train_heads STORE OUT`.

`punsafe` (for the planted concept) is trained on the embeddings of the demo's own model, of pictures that are drawn as
the crawl's are, with other seeds, so that the crawl is held out. `pwatermark` is the detector that
`tests.demo.train_watermark` has trained. Writes to OUT what a recipe says of them and what was measured: also whether
the model finds the right caption among a hundred, which tells a broken model from a bad threshold.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset.models.clip import ClipModel, load_model
from dataset.recipe.recipe import ModelRecipe
from dataset.recipe.tags import Tag
from dataset.store.store import Store
from dataset.tags.heads import Embedder, Rows, add_head
from dataset.tags.training import Schedule, about, train_head
from tests.demo.marks import MARKED_EVERY, TRAINED, Truth, truth_of, watermarked
from tests.demo.measure_watermark import DETECTOR, MEASURED
from tests.demo.pictures import Scene, caption, random_scene, render

PICTURES = 1_200
BATCH = 100
RANKED = 100  # captions among which the right one is looked for; chance finds 1 %
SCHEDULE = Schedule(hidden=(64,), learning_rate=2e-3, batch_rows=64, patience=15, max_epochs=120)
SEED = 20_000


def drawn(count: int, seed: int) -> tuple[list[Scene], list[Truth], "Rows", ClipModel]:
    """Draw pictures and embed them, (N, D) float32 unit rows."""
    rng = np.random.default_rng(seed)
    model = load_model(ModelRecipe("demo", str(Path(__file__).parent / "clip"), 0.28), device="cpu")
    scenes = [random_scene(rng) for _ in range(count)]
    truths = [truth_of(scene, bool(rng.random() < 1 / MARKED_EVERY)) for scene in scenes]
    rows = []
    for start in range(0, count, BATCH):
        pictures = []
        for scene, truth in zip(scenes[start : start + BATCH], truths[start : start + BATCH], strict=True):
            short = int(rng.integers(110, 200))
            picture = render(scene, (round(short * rng.uniform(1, 1.6)), short), rng)
            pictures.append(watermarked(picture, TRAINED, rng) if truth.watermark else picture)
        rows.append(model.embed_images(pictures))
    return scenes, truths, np.concatenate(rows), model


def recall_at_1(images: Rows, scenes: list[Scene], model: ClipModel) -> float:
    """Return the share of pictures whose caption comes first among those of RANKED different scenes."""
    chosen = {scene: place for place, scene in enumerate(scenes)}
    places = np.array(list(chosen.values()))[: len(chosen) // RANKED * RANKED]
    texts = model.embed_texts([caption(scenes[place], "en") for place in places])
    found = [
        (images[places[start : start + RANKED]] @ texts[start : start + RANKED].T).argmax(1) == np.arange(RANKED)
        for start in range(0, len(places), RANKED)
    ]
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.demo.train_heads", description="Train the demo's heads.")
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    store = Store.open(arguments.store)
    scenes, truths, images, model = drawn(PICTURES, SEED)
    said: dict[str, object] = {"recall_at_1": recall_at_1(images, scenes, model), "pictures": len(scenes)}
    wanted = np.array([truth.concept for truth in truths], np.int64)
    embedder = Embedder("demo", model.sha256, model.checksums.config)
    head, measured = train_head(images, wanted, Tag.PUNSAFE, embedder, SCHEDULE)
    concept = replace(head, about=about(measured, SCHEDULE)).to_bytes()
    said[Tag.PUNSAFE.value] = {"head": add_head(store, Tag.PUNSAFE.value, concept), "auc": measured.auc}
    said[Tag.PWATERMARK.value] = {
        "head": add_head(store, Tag.PWATERMARK.value, DETECTOR.read_bytes()),
        "auc": json.loads(MEASURED.read_text(encoding="utf-8"))["auc"],
    }
    arguments.out.write_text(json.dumps(said, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
