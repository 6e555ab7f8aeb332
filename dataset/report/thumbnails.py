"""Choose the pairs that a page shows, and read their thumbnails from stored pictures.

Only a few shards of all subsets are read. Pairs are chosen by `hash`, which is practically random, so the choice is the
same each time. Rejected: the best and the worst similarities, which are not typical, and show nothing near the
threshold.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dataset.formats.manifest import Output, OutputKind, outputs
from dataset.formats.parts import Verdict
from dataset.formats.shards import Sample, read_samples
from dataset.models.decoders import Decoders
from dataset.models.inputs import SmallJpeg
from dataset.report.html import Thumbnail, data_url
from dataset.store.store import Store

GALLERY_PARTS = 9  # parts whose thumbnails are shown; for each, a shard of about 200 MB is read
GALLERY_SAMPLES = 36  # kept samples that are shown, and the same number of dropped ones
THUMBNAIL_PIXELS = 150


@dataclass(frozen=True, slots=True, order=True)
class Score:
    """A scored pair that may be shown, ordered by a hash, which is practically random."""

    hash: int
    key: str
    similarity: float


def spread_parts(store: Store, run: str | None = None) -> list[Output]:
    """Choose GALLERY_PARTS parts, from the subsets in turn."""
    by_subset: dict[str | None, list[Output]] = {}
    for part in outputs(store, kind=OutputKind.PART, run=run):
        first = by_subset.setdefault(part.subset, [])
        if len(first) < GALLERY_PARTS:
            first.append(part)
    ranked = [(at, str(subset), part) for subset, parts in by_subset.items() for at, part in enumerate(parts)]
    return [part for _, _, part in sorted(ranked, key=lambda each: each[:2])[:GALLERY_PARTS]]


def choose_samples(store: Store, paths: Sequence[str]) -> tuple[list[Score], list[Score]]:
    """Choose the kept and the dropped samples to show from the scores of some parts."""
    kept: list[Score] = []
    dropped: list[Score] = []
    for path in paths:
        rows = store.read_table(f"{path}.scores.parquet").to_pylist()
        scores = [
            (row["reason"], Score(row["hash"], row["key"], row["similarity"]))
            for row in rows
            if row["similarity"] is not None
        ]
        kept = _first(kept, [score for reason, score in scores if reason == Verdict.KEPT])
        dropped = _first(dropped, [score for reason, score in scores if reason != Verdict.KEPT])
    return kept, dropped


def _first(before: list[Score], more: list[Score]) -> list[Score]:
    return heapq.nsmallest(GALLERY_SAMPLES, before + more)


def read_pictures(store: Store, parts: Sequence[Output], wanted: Mapping[str, float]) -> dict[str, Thumbnail]:
    """Make thumbnails of the samples with the `wanted` keys; one that cannot be read or decoded is left out.

    The keys belong to the shards of `parts`. The pictures are in the shard's own tar or, after that is deleted, in the
    part's.
    """
    by_job: dict[int, set[str]] = {}
    for key in wanted:
        by_job.setdefault(int(key[:10]), set()).add(key)  # a key begins with ten digits of the download job
    shards = [shard for shard in outputs(store, kind=OutputKind.SHARD) if shard.job in by_job]
    tars = _find_tars(store, shards, parts)
    made: dict[str, Thumbnail] = {}
    with Decoders() as decoders:
        for shard in shards:
            for sample in _samples(store, shard.path, tars.get(shard.path), by_job[shard.job]):
                (jpeg,) = decoders.each(SmallJpeg(THUMBNAIL_PIXELS), [sample.image])
                if jpeg is not None:
                    size = (sample.original_width, sample.original_height)
                    made[sample.key] = Thumbnail(
                        data_url(jpeg), sample.caption, wanted[sample.key], sample.language, sample.url, size
                    )
    return made


def _find_tars(store: Store, shards: Sequence[Output], parts: Sequence[Output]) -> dict[str, str]:
    """Return, for each shard, the tar that has its pictures."""
    tars = {shard.path: shard.path for shard in shards if shard.tar_deleted_at is None}
    for part in parts:
        if part.tar_bytes:
            for path in store.read_table(f"{part.path}.parquet", ["shard"])["shard"].unique().to_pylist():
                tars.setdefault(path, part.path)
    return tars


def _samples(store: Store, shard: str, tar: str | None, keys: set[str]) -> Iterator[Sample]:
    """Read the samples with these keys from a shard, and stop after the last of them."""
    if tar is None:
        return
    missing = set(keys)
    for sample in read_samples(store, shard, tar):
        if sample.key in missing:
            missing.discard(sample.key)
            if isinstance(sample, Sample):
                yield sample
        if not missing:
            return


def by_similarity(scores: Sequence[Score], pictures: dict[str, Thumbnail]) -> list[Thumbnail]:
    shown = [pictures[score.key] for score in scores if score.key in pictures]
    return sorted(shown, key=lambda picture: -picture.similarity)
