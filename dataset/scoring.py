"""The filter: scores every sample of a shard by its model's cosine, and keeps those at or above its threshold.

Invariant: each sample of the shard gets exactly one verdict; a picture that cannot be decoded is one of them, never an
exception. Pictures are held for one batch at a time, whatever the size of the shard.

A sample of subset `en` is scored by the English model, all others by the other one. Batches follow the shard's order,
because a sum of floats depends on its neighbours in a batch: so a shard filtered twice gives the same part.
"""

import io
import json
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice

import numpy as np
from PIL import Image

from dataset.clip import ClipModel
from dataset.parts import KeptSample, ScoredPair, Verdict, write_part
from dataset.recipe import ModelRole, Recipe, settle
from dataset.shards import LostSample, Sample, read_samples
from dataset.store import Store

BATCH_SAMPLES = 128
"""Enough for a CPU to be busy, 128 x 256 x 256 x 3 = 25 MB of pixels."""

EN_SUBSET = "en"

_CODEC_FAULTS = (
    OSError,  # also what Pillow calls truncated, and UnidentifiedImageError
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow was seen to raise for damaged files of the three formats in which a shard keeps pictures."""


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
    on_progress: Callable[[int], None] = lambda _samples: None,
) -> FilterReport:
    """Score the shard at `shard` (without extension) and write `<output>.parquet` and `<output>.scores.parquet`.

    `models` are the recipe's, by role. `on_progress` is told the number of samples done so far, after each batch.

    Raises: ShardError when the shard is not there; RecipeMismatchError when a model is not the recipe's; StoreError.
    """
    settle(recipe, {role: model.checksums for role, model in models.items()})
    pairs: list[ScoredPair] = []
    for batch in _batches(read_samples(store, shard)):
        pairs.extend(_score(batch, models, recipe))
        on_progress(len(pairs))
    write_part(store, output, pairs, shard=shard, metadata=part_metadata(recipe, models))
    verdicts = Counter(pair.verdict for pair in pairs)
    kept = verdicts.pop(Verdict.KEPT, 0)
    return FilterReport(samples=len(pairs), kept=kept, dropped=dict(verdicts))


def part_metadata(recipe: Recipe, models: Mapping[str, ClipModel]) -> dict[str, str]:
    """Say in a part how it was made: the recipe's digest, its models as loaded, and the code's version."""
    used = {role: asdict(recipe.models.of(ModelRole(role))) for role in sorted(models)}
    for role, model in models.items():
        used[role] |= {"sha256": model.checksums.weights, "config_sha256": model.checksums.config}
    return {"shoal.recipe": recipe.digest(), "shoal.models": json.dumps(used), "shoal.version": version("shoal")}


def _batches(samples: Iterable[Sample | LostSample]) -> Iterator[list[Sample | LostSample]]:
    waiting = iter(samples)
    while batch := list(islice(waiting, BATCH_SAMPLES)):
        yield batch


def _score(
    batch: Iterable[Sample | LostSample], models: Mapping[str, ClipModel], recipe: Recipe
) -> Iterator[ScoredPair]:
    """Give each sample of a batch its verdict, the undecodable ones first."""
    by_role: dict[ModelRole, list[tuple[Sample, Image.Image]]] = {}
    for sample in batch:
        picture = decoded(sample.image) if isinstance(sample, Sample) else None
        if picture is None or isinstance(sample, LostSample):
            yield ScoredPair(sample.key, sample.url, sample.caption, Verdict.UNDECODABLE)
            continue
        role = ModelRole.EN if sample.subset == EN_SUBSET else ModelRole.OTHER
        by_role.setdefault(role, []).append((sample, picture))
    for role, decodable in by_role.items():
        images = models[role].embed_images([picture for _, picture in decodable])
        texts = models[role].embed_texts([sample.caption for sample, _ in decodable])
        cosines = np.einsum("nd,nd->n", images, texts, dtype=np.float64)  # (N,)
        threshold = recipe.models.of(role).threshold
        for (sample, _), cosine in zip(decodable, cosines.tolist(), strict=True):
            yield _judged(sample, cosine, threshold)


def _judged(sample: Sample, cosine: float, threshold: float) -> ScoredPair:
    if cosine < threshold:
        return ScoredPair(sample.key, sample.url, sample.caption, Verdict.BELOW_THRESHOLD, cosine)
    about = KeptSample(sample.original_width, sample.original_height, sample.language, sample.pack, sample.pack_row)
    return ScoredPair(sample.key, sample.url, sample.caption, Verdict.KEPT, cosine, about)


def decoded(data: bytes) -> Image.Image | None:
    """Decode a picture of a shard to RGB, None when it cannot be."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"]) as image:
            return image.convert("RGB")
    except _CODEC_FAULTS:
        return None
