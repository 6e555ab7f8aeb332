"""Filter a shard: score every sample by its model's cosine, and keep those at or above the threshold.

Invariant: each sample of the shard gets exactly one verdict; an undecodable picture is a verdict, never an exception,
and no similarity is NaN. Batches are held until they are judged, whatever the size of the shard.

Samples of the subset `en` are scored by the English model, all others by the other one. A batch contains samples of one
shard only, because a sum of floats depends on the number of rows summed at once; so filtering a shard twice gives the
same part. Decoding and writing overlap between shards (`dataset.models.pipeline`): at the end of a shard only the last
batch may not be full.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from itertools import repeat

import numpy as np

from dataset import strict_json
from dataset.formats.embeddings import pair_rows
from dataset.formats.parts import REMOVED, KeptSample, ScoredPair, Verdict, write_part
from dataset.formats.shards import LostSample, Sample, ShardError, read_samples
from dataset.models.batches import in_batches
from dataset.models.clip import ClipModel
from dataset.models.decoders import Decoders
from dataset.models.inputs import KeptPicture, PictureHash
from dataset.models.pipeline import EmbeddedBatch, Pipeline
from dataset.pictures.fingerprints import Fingerprint
from dataset.recipe.recipe import ModelRole, Recipe, settle
from dataset.safety.hash_lists import HashLists
from dataset.safety.removal import read_removed, remove_samples
from dataset.store.store import Store
from dataset.tags.tagger import Tagger, load_taggers, settle_tagging

EN_SUBSET = "en"


@dataclass(frozen=True, slots=True)
class FilterReport:
    """The counts for one shard: `samples` is the sum of `kept` and the counts in `dropped`."""

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
    hash_lists: HashLists | None = None,
    pipeline: Pipeline | None = None,
    fetched: datetime | None = None,
    on_progress: Callable[[int], None] = lambda _samples: None,
) -> FilterReport:
    """Score the shard `shard` (a stem, without extension) and write `<output>.parquet` and `<output>.scores.parquet`.

    `models` and `taggers` are the recipe's, by role; missing `taggers` are loaded. Samples on a list of `hash_lists`
    are dropped before anything else is done with them. Samples that must not be kept are removed from the shard before
    the part is written. Several shards may be filtered at once, in threads that share a `pipeline`. `fetched` is the
    time at which the shard was completed. `on_progress` is called with a number of samples after each batch, and with 0
    twice a second while the shard waits; an exception that it raises stops the work.

    Raises: ShardError when the shard does not exist; RecipeMismatchError, TagRecipeError when a model or head is not
    the recipe's; HeadError, SafetyError; StoreError; ModelError, DeviceError when this machine cannot continue.
    """
    recipe = settle(recipe, {role: model.checksums for role, model in models.items()})
    taggers = load_taggers(recipe, models, store) if taggers is None else taggers
    recipe = settle_tagging(recipe, taggers)
    pairs: list[ScoredPair] = []
    with nullcontext(pipeline) if pipeline else Pipeline() as line:
        sieve = _Sieve(read_removed(store, shard), hash_lists or HashLists(), line.decoders)
        samples = sieve.through(read_samples(store, shard, extra=recipe.extra))
        by_role = in_batches(
            samples, lambda sample: role_of(sample.subset), lambda role: line.batch_samples(models[role])
        )
        batches = ((models[role], batch) for role, batch in by_role)
        for batch in line.embed(batches, while_waiting=lambda: on_progress(0)):
            judged = judge(batch, recipe, taggers, line.decoders)
            pairs += judged
            on_progress(len(judged))
    pairs += sieve.held_back
    remove_samples(store, shard, {pair.key: pair.verdict for pair in pairs if pair.verdict in REMOVED})
    verdicts = Counter(pair.verdict for pair in pairs)
    metadata = part_metadata(recipe, models, verdicts)
    write_part(
        store,
        output,
        pairs,
        shard=shard,
        metadata=metadata,
        fetched=fetched,
        extra=recipe.extra,
        embedded_by=_embedded_by(shard, pairs, models),
    )
    kept = verdicts.pop(Verdict.KEPT, 0)
    return FilterReport(samples=len(pairs), kept=kept, dropped=dict(verdicts))


def part_metadata(recipe: Recipe, models: Mapping[str, ClipModel], verdicts: Mapping[Verdict, int]) -> dict[str, str]:
    """Return how a part was made: the recipe's digest; models, heads and prompts as loaded; the code's version.

    `shoal.verdicts` counts every sample of the shard, including those that left no row.
    """
    used = {role: asdict(recipe.models.of(ModelRole(role))) for role in sorted(models)}
    for role, model in models.items():
        used[role] |= {
            "sha256": model.checksums.weights,
            "config_sha256": model.checksums.config,
            "precision": model.towers.precision.value,
            "compiled": model.towers.compiled,
        }
    return {
        "shoal.recipe": recipe.digest(),
        "shoal.models": strict_json.dumps(used),
        "shoal.tags": strict_json.dumps(asdict(recipe.tags)),
        "shoal.safety": strict_json.dumps(asdict(recipe.safety)),
        "shoal.verdicts": strict_json.dumps({verdict.value: verdicts[verdict] for verdict in sorted(verdicts)}),
        "shoal.version": version("shoal"),
    }


def _embedded_by(shard: str, pairs: Iterable[ScoredPair], models: Mapping[str, ClipModel]) -> dict[str, str]:
    """Return the name and role of the model that made the kept embeddings.

    Raises: ShardError for embeddings of two models: they cannot be compared, nor told apart in one folder.
    """
    roles = {role_of(pair.sample.subset) for pair in pairs if pair.sample is not None and pair.embeddings is not None}
    if len(roles) > 1:
        raise ShardError(f"{shard} mixes subsets of two models, whose embeddings fit no folder: download it again.")
    return {key: value for role in roles for key, value in ({"shoal.role": str(role)} | models[role].metadata).items()}


def role_of(subset: str) -> ModelRole:
    """Return the role of the model that scores a subset's samples."""
    return ModelRole.EN if subset == EN_SUBSET else ModelRole.OTHER


def judge(batch: EmbeddedBatch, recipe: Recipe, taggers: Mapping[str, Tagger], decoders: Decoders) -> list[ScoredPair]:
    """Return each sample of a batch with its verdict and its tags.

    `batch.image_features` and `batch.text_features` are (N, D) float32 unit rows, of samples of one role.
    """
    pairs = _scored(batch, recipe, taggers, decoders) if batch.samples else []
    for verdict, samples in (
        (Verdict.UNDECODABLE, batch.undecodable),
        (Verdict.WITHOUT_DIRECTION, batch.without_direction),
    ):
        pairs += [ScoredPair(sample.key, sample.url, sample.caption, verdict) for sample in samples]
    return pairs


def _scored(
    batch: EmbeddedBatch, recipe: Recipe, taggers: Mapping[str, Tagger], decoders: Decoders
) -> list[ScoredPair]:
    images, texts = batch.image_features, batch.text_features
    role = role_of(batch.samples[0].subset)
    threshold, tagger = recipe.models.of(role).threshold, taggers[role]
    cosines = np.einsum("nd,nd->n", images, texts, dtype=np.float64)  # (N,)
    rows = pair_rows(images, texts) if recipe.embeddings.keep else repeat(None)
    drops = tagger.drops(images, texts)
    tags = tagger.tags(images)
    pairs = []
    for place, (sample, cosine, row, drop) in enumerate(
        zip(batch.samples, cosines.tolist(), rows, drops, strict=False)
    ):
        if drop is not None:
            pairs.append(ScoredPair(sample.key, sample.url, sample.caption, drop))
        elif cosine < threshold:
            pairs.append(ScoredPair(sample.key, sample.url, sample.caption, Verdict.BELOW_THRESHOLD, cosine))
        else:
            told = {tag: float(values[place]) for tag, values in tags.items()}
            about = _about(sample)
            pairs.append(ScoredPair(sample.key, sample.url, sample.caption, Verdict.KEPT, cosine, about, row, told))
    return _looked_at(pairs, batch.samples, tagger, decoders)


def _looked_at(
    pairs: Sequence[ScoredPair], samples: Sequence[Sample], tagger: Tagger, decoders: Decoders
) -> list[ScoredPair]:
    """Return `pairs` with the fingerprints and picture tags of the kept pictures; `samples` are theirs, in the same
    order. They stay null for a picture whose decoder process fails.

    Kept pictures are decoded again for this: with one in ten kept, as by LAION, that takes half as long as hashing
    every picture when it is first decoded.
    """
    task = KeptPicture(tuple(sorted(tagger.sides)))
    kept = [place for place, pair in enumerate(pairs) if pair.sample is not None]
    answers = zip(kept, decoders.each(task, [samples[place].image for place in kept]), strict=True)
    seen = {place: read for place, said in answers if said is not None and (read := task.read(said)) is not None}
    squares = {
        side: np.stack([looked[number] for looked, _ in seen.values()])  # (K, side, side, 3)
        for number, side in enumerate(task.sides)
        if seen
    }
    tags = tagger.picture_tags(squares) if squares else {}
    looked_at = list(pairs)
    for row, (place, (_, found)) in enumerate(seen.items()):
        told = {tag: float(values[row]) for tag, values in tags.items()}
        looked_at[place] = _recognisable(pairs[place], found, told)
    return looked_at


def _recognisable(pair: ScoredPair, found: Fingerprint, told: Mapping[str, float]) -> ScoredPair:
    """Return a kept pair with its fingerprint; a PDQ from the shard is of the picture as received, and comes first."""
    assert pair.sample is not None
    sample = replace(pair.sample, pdq=pair.sample.pdq or found.pdq, dhash=found.dhash)
    return replace(pair, sample=sample, tags={**pair.tags, **told})


def _about(sample: Sample) -> KeptSample:
    return KeptSample(
        width=sample.original_width,
        height=sample.original_height,
        language=sample.language,
        subset=sample.subset,
        pack=sample.pack,
        pack_row=sample.pack_row,
        sha256=sample.sha256,
        md5=sample.md5,
        sha1=sample.sha1,
        pdq=bytes.fromhex(sample.pdq) if sample.pdq else None,
        final_url=sample.final_url,
        extra=sample.extra,
    )


@dataclass(slots=True)
class _Sieve:
    """Holds back the samples that must not or cannot be given to a model, with their verdicts."""

    removed: Mapping[str, Verdict]
    """Samples that an earlier attempt removed from the shard, by key."""
    hash_lists: HashLists
    decoders: Decoders
    held_back: list[ScoredPair] = field(default_factory=list)

    def through(self, samples: Iterable[Sample | LostSample]) -> Iterator[Sample]:
        for _, some in in_batches(samples, lambda _: None, lambda _: self.decoders.pictures_at_once):
            hashes = self._missing_hashes(some)
            for sample in some:
                verdict = self._verdict(sample, hashes)
                if verdict is not None:
                    self.held_back.append(ScoredPair(sample.key, sample.url, sample.caption, verdict))
                elif isinstance(sample, Sample):
                    yield sample

    def _missing_hashes(self, samples: Iterable[Sample | LostSample]) -> dict[str, bytes | None]:
        """Return the PDQs that the shard lacks, by key, if a hash list needs them; None for undecodable pictures."""
        if not self.hash_lists.needs_pdq:
            return {}
        images = {one.key: one.image for one in samples if isinstance(one, Sample) and one.pdq is None}
        return dict(zip(images, self.decoders.each(PictureHash(), [*images.values()]), strict=True))

    def _verdict(self, sample: Sample | LostSample, hashes: Mapping[str, bytes | None]) -> Verdict | None:
        if sample.key in self.removed:
            return self.removed[sample.key]
        if self.hash_lists.has_links and self._is_denied(sample):
            return Verdict.RESTRICTED
        if isinstance(sample, LostSample):
            return Verdict.UNREADABLE
        pdq = sample.pdq  # of the picture as received; the shard's may be resized or cropped
        if sample.key in hashes:
            computed = hashes[sample.key]
            if computed is None:  # it cannot be compared with the hash lists
                return Verdict.UNDECODABLE
            pdq = computed.decode("ascii") or None
        is_listed = self.hash_lists.matches(sha256=sample.sha256, md5=sample.md5, sha1=sample.sha1, pdq=pdq)
        return Verdict.RESTRICTED if is_listed else None

    def _is_denied(self, sample: Sample | LostSample) -> bool:
        final_url = sample.final_url if isinstance(sample, Sample) else None
        return self.hash_lists.names_link(sample.url, sample.caption) or (
            final_url is not None and self.hash_lists.names_link(final_url)
        )
