"""The figures of the report on tags: scores by subset, what each threshold does, and rows to look at by score.

The data files are read once, a row group at a time. Precision and recall are measured on labels that were drawn at
random, with their weights; without labels they are those of calibrated scores: of rows with the score s, the share s
has the property. Memory does not grow with the release.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.label_files import Split, positives, read_label_file, splits
from dataset.formats.releases import Release
from dataset.formats.side_tables import TableHead, score_tables
from dataset.recipe.tags import Tag
from dataset.select.candidates import priorities
from dataset.side_tables.rows import ReleaseRows, RowGroup
from dataset.stats.threads import map_in_order
from dataset.tagging.errors import TaggingError
from dataset.tags.prevalence import Share, at_prevalence, weights_at

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

PROBABILITIES = (Tag.PUNSAFE.value, Tag.PWATERMARK.value)
"""The tags that a report covers."""
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BINS = 50
BUCKETS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""Lower edges of the score in the gallery."""
DRAWN_ROWS = 48
"""Rows of each bucket that are drawn; those whose pictures are kept are shown, up to SHOWN_ROWS."""
SHOWN_ROWS = 8
_EDGES = np.array(THRESHOLDS, np.float32)


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Labels with sampling weights: ids in order, 1 for rows with the property, and the rows for which each stands."""

    ids: Integers
    labels: Integers
    weights: Floats


@dataclass(frozen=True, slots=True, order=True)
class Drawn:
    """A row of the gallery; those with the lowest priorities are drawn."""

    priority: int
    id: int
    score: float
    caption: str
    url: str
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a threshold does; `rows` are at or above it. Shares without an interval are those of calibrated scores."""

    threshold: float
    rows: int
    precision: Share
    recall: Share


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows by score, from `low` to below the next bucket's."""

    low: float
    rows: int
    drawn: tuple[Drawn, ...]


@dataclass(frozen=True, slots=True)
class TagFigures:
    """What the report shows of a tag."""

    tag: str
    table: str
    """The side table whose values come first; '' if only the release has some."""
    head: TableHead | None
    rows: Mapping[str, int]
    without: Mapping[str, int]
    """Rows without a score, by subset."""
    histograms: Mapping[str, tuple[int, ...]]
    """Rows by subset, in BINS bins from 0 to 1."""
    labels: int
    """Labelled rows that were found; 0 without labels."""
    prevalence: Share
    """The share of rows that have the property."""
    thresholds: tuple[Threshold, ...]
    buckets: tuple[Bucket, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's types; rows are left out of the gallery, shares without rows are null."""
        found = asdict(self)
        found["prevalence"] = self.prevalence.to_json()
        found["thresholds"] = [
            {
                "threshold": one.threshold,
                "rows": one.rows,
                "precision": one.precision.to_json(),
                "recall": one.recall.to_json(),
            }
            for one in self.thresholds
        ]
        found["buckets"] = [{"from": one.low, "rows": one.rows} for one in self.buckets]
        return found


def read_test_labels(path: Path, positive: str) -> LabelledRows:
    """Return the rows of a label file's split `test`, which were drawn at random.

    Raises: LabelFileError when it is damaged or has no such class; TaggingError when it has no such rows.
    """
    file = read_label_file(path)
    rows = splits(file)[Split.TEST]
    weights = file.rows["weight"].to_numpy(zero_copy_only=False).astype(np.float64)[rows]
    rows, weights = rows[np.isfinite(weights)], weights[np.isfinite(weights)]
    labels = positives(file, positive)[rows]
    if not len(rows):
        raise TaggingError(f"{path} has no row of the split test with a weight: label a random draw for testing.")
    ids = file.rows["id"].to_numpy()[rows]
    order = np.argsort(ids)
    return LabelledRows(ids[order], labels[order], weights[order])


def gather(
    release: Release,
    tags: Sequence[str] = (),
    *,
    labels: LabelledRows | None = None,
    threads: int = 1,
    on_progress: Progress = lambda *_: None,
) -> list[TagFigures]:
    """Read the figures of tags; () means all that a row has.

    Raises: TaggingError when no row has such a tag, or labels are given and are not of exactly one tag; StoreError.
    """
    rows = ReleaseRows.open(release)
    wanted = [tag for tag in PROBABILITIES if not tags or tag in tags]
    groups = list(rows.row_groups())
    found = {tag: _Counted() for tag in wanted}
    known = labels.ids if labels else np.empty(0, np.int64)
    counted = map_in_order(lambda group: _count(rows, group, wanted, known), groups, threads)
    for done, one in enumerate(counted, 1):
        for tag in wanted:
            found[tag].add(one[tag])
        on_progress("counting", done, len(groups))
    some = [tag for tag in wanted if found[tag].rows.total()]
    if not some:
        raise TaggingError(
            f"No row of {release.record.name} has {' or '.join(wanted)}: tag it with dataset tag, or join tags with "
            "dataset tags join."
        )
    if labels is not None and len(some) != 1:
        raise TaggingError(f"The release has {' and '.join(some)}: name the one that the labels are of with --tag.")
    return [_figures(rows, tag, found[tag], labels) for tag in some]


class _Counted:
    """What was counted of a tag in some row groups."""

    def __init__(self) -> None:
        self.rows, self.without = Counter[str](), Counter[str]()
        self.histograms: dict[str, Integers] = {}
        self.at_edges: Integers = np.zeros(len(THRESHOLDS) + 1, np.int64)
        self.sums: Floats = np.zeros(len(THRESHOLDS) + 1)
        self.buckets: Integers = np.zeros(len(BUCKETS), np.int64)
        self.drawn: list[list[Drawn]] = [[] for _ in BUCKETS]
        self.scores: dict[int, float] = {}
        """Of labelled rows, by id."""

    def add(self, other: "_Counted") -> None:
        self.rows += other.rows
        self.without += other.without
        for subset, bins in other.histograms.items():
            self.histograms[subset] = self.histograms.get(subset, np.zeros(BINS, np.int64)) + bins
        self.at_edges = self.at_edges + other.at_edges
        self.sums = self.sums + other.sums
        self.buckets = self.buckets + other.buckets
        pairs = zip(self.drawn, other.drawn, strict=True)
        self.drawn = [heapq.nsmallest(DRAWN_ROWS, [*mine, *theirs]) for mine, theirs in pairs]
        self.scores |= other.scores


def _count(rows: ReleaseRows, group: RowGroup, tags: Sequence[str], labelled: Integers) -> dict[str, _Counted]:
    tables = score_tables(rows.tables, tags)
    side = [f"{table.name}.{tag}" for tag, table in tables.items()]
    table = rows.read(group, ["id", "URL", "TEXT", "WIDTH", "HEIGHT", *tags, *side])
    return {tag: _count_tag(table, group.file.subset, tag, tables.get(tag), labelled) for tag in tags}


def _count_tag(table: pa.Table, subset: str, tag: str, side: Any, labelled: Integers) -> _Counted:
    column = table[tag].cast(pa.float32())
    if side is not None:
        column = pc.coalesce(table[f"{side.name}.{tag}"].cast(pa.float32()), column)
    scores = column.to_numpy(zero_copy_only=False)
    known = np.isfinite(scores)
    places = np.flatnonzero(known)
    scores = np.clip(scores[places], 0, 1)
    ids = table["id"].to_numpy()[places]
    found = _Counted()
    found.rows[subset], found.without[subset] = len(places), int(np.count_nonzero(~known))
    found.histograms[subset] = np.bincount(np.minimum((scores * BINS).astype(np.int64), BINS - 1), minlength=BINS)
    edges = np.searchsorted(_EDGES, scores, side="right")
    found.at_edges = np.bincount(edges, minlength=len(THRESHOLDS) + 1)
    np.add.at(found.sums, edges, scores.astype(np.float64))
    buckets = np.searchsorted(np.array(BUCKETS, np.float32), scores, side="right") - 1
    found.buckets = np.bincount(buckets, minlength=len(BUCKETS))
    order = priorities(ids, 0)
    for bucket in range(len(BUCKETS)):
        mine = np.flatnonzero(buckets == bucket)
        mine = mine[np.argsort(order[mine])[:DRAWN_ROWS]]
        found.drawn[bucket] = list(_drawn(table.take(pa.array(places[mine])), scores[mine], order[mine]))
    here = np.flatnonzero(np.isin(ids, labelled))
    found.scores = dict(zip(ids[here].tolist(), scores[here].astype(np.float64).tolist(), strict=True))
    return found


def _drawn(rows: pa.Table, scores: npt.NDArray[np.float32], order: npt.NDArray[np.uint64]) -> Iterator[Drawn]:
    for row, score, priority in zip(rows.to_pylist(), scores.tolist(), order.tolist(), strict=True):
        size = (row["WIDTH"], row["HEIGHT"]) if row["WIDTH"] and row["HEIGHT"] else None
        yield Drawn(priority, row["id"], score, row["TEXT"] or "", row["URL"] or "", size)


def _figures(rows: ReleaseRows, tag: str, found: _Counted, labels: LabelledRows | None) -> TagFigures:
    table = score_tables(rows.tables, [tag]).get(tag)
    at_least = np.cumsum(found.at_edges[::-1])[::-1]
    sums = np.cumsum(found.sums[::-1])[::-1]
    if labels is None:
        prevalence = _exact(sums[0], at_least[0])
        shares = [(_exact(sums[at], at_least[at]), _exact(sums[at], sums[0])) for at in range(1, len(at_least))]
        used = 0
    else:
        scores, ones, weights = _labelled(rows.release, tag, found.scores, labels)
        measured = [at_prevalence(scores, ones, weights, threshold) for threshold in THRESHOLDS]
        shares = [(one.precision, one.recall) for one in measured]
        prevalence = at_prevalence(scores, ones, weights, float("-inf")).precision
        used = len(scores)
    return TagFigures(
        tag=tag,
        table=table.name if table else "",
        head=table.heads.get(tag) if table else None,
        rows=dict(sorted(found.rows.items())),
        without=dict(sorted(found.without.items())),
        histograms={subset: tuple(bins.tolist()) for subset, bins in sorted(found.histograms.items())},
        labels=used,
        prevalence=prevalence,
        thresholds=tuple(
            Threshold(threshold, int(count), precision, recall)
            for threshold, count, (precision, recall) in zip(THRESHOLDS, at_least[1:].tolist(), shares, strict=True)
        ),
        buckets=tuple(
            Bucket(low, int(count), tuple(drawn))
            for low, count, drawn in zip(BUCKETS, found.buckets.tolist(), found.drawn, strict=True)
        ),
    )


def _exact(part: float, whole: float) -> Share:
    """Return a share of calibrated scores, which has no interval; NaN without rows."""
    share = float(part / whole) if whole else float("nan")
    return Share(share, share, share, int(whole > 0))


def _labelled(
    release: Release, tag: str, scores: Mapping[int, float], labels: LabelledRows
) -> tuple[Floats, Integers, Floats]:
    """Return scores, labels and weights of the labelled rows that have a score."""
    there = np.array([one in scores for one in labels.ids.tolist()], np.bool_)
    if not there.any():
        raise TaggingError(f"No labelled row is a row of {release.record.name} with {tag}: give this release's labels.")
    found = np.array([scores[one] for one in labels.ids[there].tolist()])
    ones = labels.labels[there]
    return found, ones, weights_at(ones, labels.weights[there], None)
