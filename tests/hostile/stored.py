"""A trial of the stages after download: hostile pictures in a shard, filtered and embedded on a CPU.

Every picture is put into the shard unchanged, even if a download would refuse it: shards may be older than that rule,
and tars may come from anyone.

Raises: AssertionError when a picture has no verdict, or counts do not add up.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dataset.embed.embed import embed
from dataset.embed.sources import source_of_shard
from dataset.filter.shard import filter_shard
from dataset.formats.parts import Verdict
from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import sample_key
from dataset.models.clip import ClipModel, load_model
from dataset.models.pipeline import Pipeline
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.recipe import ModelRecipe, Recipe
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store

DEMO = Path(__file__).parents[1] / "demo" / "clip"
SHARD, PART, EMBEDDINGS = "shards/hostile", "parts/hostile", "embeddings/hostile"
VERDICTS = {Verdict.KEPT, Verdict.BELOW_THRESHOLD, Verdict.UNDECODABLE}


def demo_model() -> ClipModel:
    """Load the small model that the demo uses, on the CPU."""
    return load_model(ModelRecipe("demo", str(DEMO), 0.0), device="cpu")


def plant(pictures: Sequence[bytes], store: Store) -> None:
    """Write a shard in which each of the pictures is a success."""
    with ShardWriter(store, SHARD, job_id=1, subset="en") as shard:
        for number, data in enumerate(pictures):
            digest = hashlib.sha256(data).hexdigest()
            shard.add(
                LinkRow(
                    position=number,
                    pack=1,
                    pack_row=number,
                    attempt=1,
                    final=True,
                    language="en",
                    url=f"http://a.example/{number}",
                    caption="a caption",
                    outcome=Outcome.SUCCESS,
                    picture=Picture(data, "jpg", 1, 1, 1, 1, digest, "0" * 32),
                )
            )
        shard.publish()


def try_stored(
    pictures: Sequence[bytes], store: Store, model: ClipModel, pipeline: Pipeline, listed: HashLists | None = None
) -> list[Verdict]:
    """Filter and embed the pictures; return the filter's verdict on each, in their order."""
    plant(pictures, store)
    recipe = Recipe.from_json(
        {
            "models": {role: {"model": "demo", "pretrained": str(DEMO), "threshold": -1.0} for role in ("en", "other")},
            "safety": {"prompts": None},
        }
    )
    models = {"en": model, "other": model}
    report = filter_shard(store, SHARD, PART, models=models, recipe=recipe, pipeline=pipeline, hash_lists=listed)
    rows = store.read_table(f"{PART}.scores.parquet", ["key", "reason"]).to_pylist()
    assert [row["key"] for row in rows] == [sample_key(1, number) for number in range(len(pictures))]
    verdicts = [Verdict(row["reason"]) for row in rows]
    assert set(verdicts) <= VERDICTS, set(verdicts)
    assert report.samples == len(pictures)
    for name in store.list(EMBEDDINGS.partition("/")[0]):
        store.delete(name)
    done = embed(source_of_shard(store, SHARD), model, pipeline, store, EMBEDDINGS)
    counts = Counter(verdicts)
    assert done.embedded == counts[Verdict.KEPT] + counts[Verdict.BELOW_THRESHOLD]
    assert done.lost == ({Verdict.UNDECODABLE: counts[Verdict.UNDECODABLE]} if counts[Verdict.UNDECODABLE] else {})
    return verdicts
