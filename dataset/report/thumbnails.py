"""Choose the pairs that a page shows, and read their thumbnails from stored pictures.

Only a few shards of all subsets are read. Pairs are chosen by `hash`, which is as good as random and the same each
time. Rejected: the best and the worst similarities, which are not typical, and show nothing near the threshold.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dataset.formats.parts import Verdict
from dataset.formats.shards import Sample, read_samples
from dataset.models.decoders import Decoders
from dataset.models.inputs import SmallJpeg
from dataset.report.html import Thumbnail
from dataset.store.store import Store

GALLERY_PARTS = 9  # parts that thumbnails are taken from: each costs the reading of a shard, some 200 MB
GALLERY_SAMPLES = 36  # kept, and as many dropped
THUMBNAIL_PIXELS = 150


@dataclass(frozen=True, slots=True, order=True)
class Score:
    """A scored pair that may be shown; ordered by a hash that is as good as chance."""

    hash: int
    key: str
    similarity: float


def spread(parts: Sequence[dict[str, str]]) -> list[str]:
    """Choose the paths of GALLERY_PARTS parts, the subsets in turn."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, str, str]] = []
    for part in parts:
        ranked.append((seen[part["subset"]], part["subset"], part["path"]))
        seen[part["subset"]] += 1
    return [path for _, _, path in sorted(ranked)[:GALLERY_PARTS]]


def choose_samples(store: Store, paths: Sequence[str]) -> tuple[list[Score], list[Score]]:
    """Draw the kept and the dropped samples to be shown from the scores of some parts."""
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


def find_tars(store: Store, outputs: Sequence[dict[str, object]], shown: Sequence[str]) -> dict[str, str]:
    """Return by shard the tar that has its pictures: its own or, of what is shown, its part's."""
    tars = {str(row["path"]): str(row["path"]) for row in outputs if row.get("tar_deleted_at") is None}
    for row in outputs:
        path = str(row["path"])
        if row["kind"] == "part" and row.get("tar_bytes") and path in shown:
            for shard in store.read_table(f"{path}.parquet", ["shard"])["shard"].unique().to_pylist():
                tars.setdefault(shard, path)
    return tars


def read_thumbnails(
    store: Store, shards: dict[int, str], tars: dict[str, str], wanted: dict[str, float]
) -> dict[str, Thumbnail]:
    """Make thumbnails of the samples with the `wanted` keys; one that cannot be read or decoded is left out."""
    by_job: dict[int, set[str]] = {}
    for key in wanted:
        by_job.setdefault(int(key[:10]), set()).add(key)  # a key begins with ten digits of the download job
    made: dict[str, Thumbnail] = {}
    with Decoders() as decoders:
        for job, keys in by_job.items():
            shard = shards.get(job)
            for sample in _samples(store, shard, tars.get(shard or ""), keys):
                (jpeg,) = decoders.each(SmallJpeg(THUMBNAIL_PIXELS), [sample.image])
                if jpeg is not None:
                    size = (sample.original_width, sample.original_height)
                    made[sample.key] = Thumbnail(
                        jpeg, sample.caption, wanted[sample.key], sample.language, sample.url, size
                    )
    return made


def _samples(store: Store, shard: str | None, tar: str | None, keys: set[str]) -> Iterator[Sample]:
    """Read the samples with these keys from a shard, and no further than the last of them."""
    if shard is None or tar is None:
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
