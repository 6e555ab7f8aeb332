"""The filter: scores every sample of a shard by its model's cosine, and keeps those at or above its threshold.

Invariant: each sample of the shard gets exactly one verdict; a picture that cannot be decoded is one of them, never an
exception, and no similarity is NaN. Batches are held until they are judged, whatever the size of the shard.

A sample of subset `en` is scored by the English model, all others by the other one. Batches follow the shard's order
and end with it, because a sum of floats depends on how many rows are summed at once: so a shard filtered twice gives
the same part. What comes before and after the model goes on over the borders of shards (`dataset.pipeline`), so
that a shard's last batch, which is not full, is all that its border costs.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import repeat

import numpy as np

from dataset.clip import ClipModel
from dataset.embeddings import Rows, paired
from dataset.parts import KeptSample, ScoredPair, Verdict, write_part
from dataset.pipeline import EmbeddedBatch, Pipeline
from dataset.recipe import ModelRole, Recipe, settle
from dataset.shards import LostSample, Sample, read_samples
from dataset.store import Store

EN_SUBSET = "en"


@dataclass(frozen=True, slots=True)
class FilterReport:
    """What became of a shard's samples: `samples` is the sum of `kept` and the counts in `dropped`."""

    samples: int
    kept: int
    dropped: dict[Verdict, int] = field(default_factory=dict)


def filter_shard(
    store: Store,
    shard: str,
    output: str,
    *,
    models: Mapping[str, ClipModel],
    recipe: Recipe,
    pipeline: Pipeline | None = None,
    on_progress: Callable[[int], None] = lambda _samples: None,
) -> FilterReport:
    """Score the shard at `shard` (without extension) and write `<output>.parquet` and `<output>.scores.parquet`.

    `models` are the recipe's, by role. Several shards may be filtered at once, in threads that share a `pipeline`.
    `on_progress` is told how many more samples are done, after each batch and twice a second while the shard waits;
    what it raises ends the work.

    Raises: ShardError when the shard is not there; RecipeMismatchError when a model is not the recipe's; StoreError;
    ModelError, DeviceError when this machine cannot go on.
    """
    settle(recipe, {role: model.checksums for role, model in models.items()})
    pairs: list[ScoredPair] = []
    lost: list[LostSample] = []
    with nullcontext(pipeline) if pipeline else Pipeline() as line:
        batches = _batches(_found(read_samples(store, shard), lost), models, line.batch_samples)
        for batch in line.embed(batches, while_waiting=lambda: on_progress(0)):
            judged = judge(batch, recipe)
            pairs += judged
            on_progress(len(judged))
    pairs += [ScoredPair(row.key, row.url, row.caption, Verdict.UNDECODABLE) for row in lost]
    write_part(store, output, pairs, shard=shard, metadata=part_metadata(recipe, models))
    verdicts = Counter(pair.verdict for pair in pairs)
    kept = verdicts.pop(Verdict.KEPT, 0)
    return FilterReport(samples=len(pairs), kept=kept, dropped=dict(verdicts))


def part_metadata(recipe: Recipe, models: Mapping[str, ClipModel]) -> dict[str, str]:
    """Say in a part how it was made: the recipe's digest, its models as loaded, their arithmetic, and the version."""
    used = {role: asdict(recipe.models.of(ModelRole(role))) for role in sorted(models)}
    for role, model in models.items():
        used[role] |= {
            "sha256": model.checksums.weights,
            "config_sha256": model.checksums.config,
            "precision": model.towers.precision.value,
        }
    return {"shoal.recipe": recipe.digest(), "shoal.models": json.dumps(used), "shoal.version": version("shoal")}


def role_of(subset: str) -> ModelRole:
    """Name the model by which a subset's samples are scored."""
    return ModelRole.EN if subset == EN_SUBSET else ModelRole.OTHER


def judge(batch: EmbeddedBatch, recipe: Recipe) -> list[ScoredPair]:
    """Give each sample of a batch its verdict; all that is told from its features is told here.

    `batch.image_features` and `batch.text_features` are (N, D) float32 unit rows, of samples of one role.
    """
    cosines = np.einsum("nd,nd->n", batch.image_features, batch.text_features, dtype=np.float64)  # (N,)
    rows = paired(batch.image_features, batch.text_features) if recipe.embeddings.keep else repeat(None)
    pairs = [
        _judged(sample, cosine, recipe.models.of(role_of(sample.subset)).threshold, row)
        for sample, cosine, row in zip(batch.samples, cosines.tolist(), rows, strict=False)
    ]
    for verdict, samples in (
        (Verdict.UNDECODABLE, batch.undecodable),
        (Verdict.WITHOUT_DIRECTION, batch.without_direction),
    ):
        pairs += [ScoredPair(sample.key, sample.url, sample.caption, verdict) for sample in samples]
    return pairs


def _found(samples: Iterable[Sample | LostSample], lost: list[LostSample]) -> Iterator[Sample]:
    """Put aside the samples whose picture is not in the tar."""
    for sample in samples:
        if isinstance(sample, LostSample):
            lost.append(sample)
        else:
            yield sample


def _batches(
    samples: Iterable[Sample], models: Mapping[str, ClipModel], batch_samples: Callable[[ClipModel], int]
) -> Iterator[tuple[ClipModel, list[Sample]]]:
    """Gather samples into full batches of one role each; at the end, what is left."""
    waiting: dict[ModelRole, list[Sample]] = {role: [] for role in ModelRole}
    for sample in samples:
        role = role_of(sample.subset)
        waiting[role].append(sample)
        if len(waiting[role]) == batch_samples(models[role]):
            yield models[role], waiting[role]
            waiting[role] = []
    yield from ((models[role], left) for role, left in waiting.items() if left)


def _judged(sample: Sample, cosine: float, threshold: float, rows: Rows | None) -> ScoredPair:
    if cosine < threshold:
        return ScoredPair(sample.key, sample.url, sample.caption, Verdict.BELOW_THRESHOLD, cosine)
    about = KeptSample(sample.original_width, sample.original_height, sample.language, sample.pack, sample.pack_row)
    return ScoredPair(sample.key, sample.url, sample.caption, Verdict.KEPT, cosine, about, rows)
