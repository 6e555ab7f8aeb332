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
from dataset.parts import REMOVED, KeptSample, ScoredPair, Verdict, write_part
from dataset.recipe import ModelRole, Recipe, settle
from dataset.removal import read_removed, remove_samples
from dataset.shards import LostSample, Sample, read_samples
from dataset.store import Store
from dataset.tagging import Tagger, load_taggers, settle_tagging

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


IsRestricted = Callable[[Sample, Image.Image | None], bool]
"""Says whether a sample is on a list that nobody may hold: by `sha256`, or by its picture, None if undecodable."""


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
    taggers: Mapping[str, Tagger] | None = None,
    is_restricted: IsRestricted = lambda _sample, _picture: False,
    on_progress: Callable[[int], None] = lambda _samples: None,
) -> FilterReport:
    """Score the shard at `shard` (without extension) and write `<output>.parquet` and `<output>.scores.parquet`.

    `models` and `taggers` are the recipe's, by role; without `taggers` they are loaded. Samples that must not be held
    are taken out of the shard before a part is written; so are those of which `is_restricted` says that nobody may hold
    them, asked before anything else is done with them. `on_progress` is told the number of samples done so far, after
    each batch.

    Raises: ShardError when the shard is not there; RecipeMismatchError, TagRecipeError when a model or head is not the
        recipe's; HeadError, SafetyError; StoreError.
    """
    recipe = settle(recipe, {role: model.checksums for role, model in models.items()})
    taggers = load_taggers(recipe, models, store) if taggers is None else taggers
    recipe = settle_tagging(recipe, taggers)
    removed = read_removed(store, shard)
    pairs: list[ScoredPair] = []
    for batch in _batches(read_samples(store, shard)):
        pairs.extend(_score(batch, models, taggers, recipe, removed, is_restricted))
        on_progress(len(pairs))
    remove_samples(store, shard, {pair.key: pair.verdict for pair in pairs if pair.verdict in REMOVED})
    verdicts = Counter(pair.verdict for pair in pairs)
    write_part(store, output, pairs, shard=shard, metadata=part_metadata(recipe, models, verdicts))
    kept = verdicts.pop(Verdict.KEPT, 0)
    return FilterReport(samples=len(pairs), kept=kept, dropped=dict(verdicts))


def part_metadata(recipe: Recipe, models: Mapping[str, ClipModel], verdicts: Mapping[Verdict, int]) -> dict[str, str]:
    """Say in a part how it was made: the recipe's digest, models, heads and prompts as loaded, the code's version.

    `shoal.verdicts` counts every sample of the shard, also those of which no row is left.
    """
    used = {role: asdict(recipe.models.of(ModelRole(role))) for role in sorted(models)}
    for role, model in models.items():
        used[role] |= {"sha256": model.checksums.weights, "config_sha256": model.checksums.config}
    return {
        "shoal.recipe": recipe.digest(),
        "shoal.models": json.dumps(used),
        "shoal.tags": json.dumps(asdict(recipe.tags)),
        "shoal.safety": json.dumps(asdict(recipe.safety)),
        "shoal.verdicts": json.dumps({verdict.value: verdicts[verdict] for verdict in sorted(verdicts)}),
        "shoal.version": version("shoal"),
    }


def _batches(samples: Iterable[Sample | LostSample]) -> Iterator[list[Sample | LostSample]]:
    waiting = iter(samples)
    while batch := list(islice(waiting, BATCH_SAMPLES)):
        yield batch


def _score(
    batch: Iterable[Sample | LostSample],
    models: Mapping[str, ClipModel],
    taggers: Mapping[str, Tagger],
    recipe: Recipe,
    removed: Mapping[str, Verdict],
    is_restricted: IsRestricted,
) -> Iterator[ScoredPair]:
    """Give each sample of a batch its verdict, those without embeddings first; `removed` are settled, by key."""
    by_role: dict[ModelRole, list[tuple[Sample, Image.Image]]] = {}
    for sample in batch:
        if sample.key in removed:
            yield ScoredPair(sample.key, sample.url, sample.caption, removed[sample.key])
            continue
        picture = decoded(sample.image) if isinstance(sample, Sample) else None
        if isinstance(sample, Sample) and is_restricted(sample, picture):
            yield ScoredPair(sample.key, sample.url, sample.caption, Verdict.RESTRICTED)
            continue
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
        drops = taggers[role].drops(images, texts)
        tags = taggers[role].tags(images, texts, [picture for _, picture in decodable])
        for place, ((sample, _), cosine, drop) in enumerate(zip(decodable, cosines.tolist(), drops, strict=True)):
            yield _judged(sample, cosine, threshold, drop, {tag: float(values[place]) for tag, values in tags.items()})


def _judged(
    sample: Sample, cosine: float, threshold: float, drop: Verdict | None, tags: Mapping[str, float]
) -> ScoredPair:
    if drop is not None:
        return ScoredPair(sample.key, sample.url, sample.caption, drop)
    if cosine < threshold:
        return ScoredPair(sample.key, sample.url, sample.caption, Verdict.BELOW_THRESHOLD, cosine)
    about = KeptSample(sample.original_width, sample.original_height, sample.language, sample.pack, sample.pack_row)
    return ScoredPair(sample.key, sample.url, sample.caption, Verdict.KEPT, cosine, about, tags)


def decoded(data: bytes) -> Image.Image | None:
    """Decode a picture of a shard to RGB, None when it cannot be."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"]) as image:
            return image.convert("RGB")
    except _CODEC_FAULTS:
        return None
