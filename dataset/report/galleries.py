"""Galleries by score for the statistics page: random pictures of each bucket, from the pictures that a run has stored.

A few parts of all subsets are read, and the shards of the pictures that are shown. A score has galleries if any part
has it. Source: LAION's pages of aesthetic scores, the most popular of its statistics.
"""

import heapq
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from dataset.formats.manifest import Output
from dataset.report.html import Thumbnail
from dataset.report.thumbnails import read_pictures, spread_parts
from dataset.store.store import Store

BUCKETS = {
    "similarity": (0.25, 0.3, 0.35, 0.4),
    "aesthetic": (3.0, 4.0, 5.0, 6.0, 7.0),
    "pwatermark": (0.2, 0.5, 0.8),
    "punsafe": (0.2, 0.5, 0.8),
}
"""Edges of the buckets; a bucket includes its lower edge."""
BUCKET_SAMPLES = 12


class Drawn(NamedTuple):
    """A pair that may be shown, ordered by a hash, which is practically random."""

    hash: int
    key: str
    score: float


class Bucket(NamedTuple):
    """A range of scores of a column: `low` and above, below `high`; None means no limit."""

    column: str
    low: float | None
    high: float | None

    @property
    def heading(self) -> str:
        """The gallery's heading."""
        if self.low is None:
            return f"{self.column} below {self.high:g}"
        return f"{self.column} from {self.low:g}" + ("" if self.high is None else f" to {self.high:g}")


def read_galleries(store: Store, run: str | None) -> dict[Bucket, list[Thumbnail]]:
    """Return pictures of each bucket; pairs without a picture are left out.

    Raises: StoreError when a part cannot be read; ShardError when a shard cannot.
    """
    parts = spread_parts(store, run)
    drawn = _draw(store, parts)
    pictures = read_pictures(store, parts, {each.key: each.score for samples in drawn.values() for each in samples})
    galleries = {
        bucket: [replace(pictures[each.key], similarity=each.score) for each in samples if each.key in pictures]
        for bucket, samples in drawn.items()
    }
    return {bucket: shown for bucket, shown in galleries.items() if shown}


def _draw(store: Store, parts: list[Output]) -> dict[Bucket, list[Drawn]]:
    drawn: dict[Bucket, list[Drawn]] = {bucket: [] for bucket in _buckets()}
    for part in parts:
        rows = store.read_table(f"{part.path}.parquet", ["key", "hash", *BUCKETS]).to_pylist()
        for bucket, samples in drawn.items():
            fitting = (Drawn(row["hash"], row["key"], row[bucket.column]) for row in rows if _fits(bucket, row))
            samples[:] = heapq.nsmallest(BUCKET_SAMPLES, [*samples, *fitting])
    return drawn


def _buckets() -> Iterator[Bucket]:
    for column, edges in BUCKETS.items():
        for low, high in zip((None, *edges), (*edges, None), strict=True):
            yield Bucket(column, low, high)


def _fits(bucket: Bucket, row: dict[str, float | None]) -> bool:
    score = row[bucket.column]
    if score is None or score != score:
        return False
    return (bucket.low is None or score >= bucket.low) and (bucket.high is None or score < bucket.high)
