"""Recall of an index on held-out queries, and the number of probed lists that it needs.

Queries are pictures and texts that were not trained on; the row that a query came from is taken out of what is expected
and of what is found. The same build gives the same numbers. Milliseconds differ; speed.json and README.md have them.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dataset import strict_json
from dataset.formats.index_files import SPEED, IndexRecord, Reach, RecallRow
from dataset.index.card import CARD, render_card
from dataset.index.filters import Filter
from dataset.index.kinds import OWN_ROWS
from dataset.index.lookup import Index
from dataset.index.neighbours import SELECTIVITIES, NearestRows, recall_of
from dataset.index.plan import Work
from dataset.index.segment_search import NO_GAP
from dataset.index.train import HeldOut

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BUDGETS_MS = (5, 10, 20, 50)
WANTED = {"images": 0.95, "texts": 0.90}
"""Recall at 10 that searches have to reach by themselves."""
_MARGIN = {"images": 0.005, "texts": 0.007}
"""A standard error and a half of a recall of 512 queries, measured at 200,000 vectors: .0035 and .005."""
_ENOUGH = 0.995
_PROBES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
_LADDER = 128
"""Queries of each sort that tell the recall at each number of lists; the reach is chosen by all."""
_STEPS = 400
"""Of a gap: thousandths."""
_RERANKED = (10, 20, 40, 80, 160)
_RERANKED_LOSS = 0.01
_TIMED = 32


@dataclass(frozen=True, slots=True)
class _Queries:
    """Queries of one sort, the ids of their own rows, and their nearest rows and similarities by selectivity."""

    name: str
    rows: Rows
    ids: Integers
    nearest: tuple[tuple[tuple[Integers, Rows], ...], ...]

    def first(self, count: int) -> "_Queries":
        """Return the first of them."""
        nearest = tuple(of[:count] for of in self.nearest)
        return _Queries(self.name, self.rows[:count], self.ids[:count], nearest)


def measure(work: Work, record: IndexRecord) -> IndexRecord:
    """Return the record with recall and how far searches look; write speed.json and the card."""
    path = work.store.local_path(work.output("index.json"))
    assert path is not None
    index = Index(path.parent, record)
    sorts = _queries(work, HeldOut.from_bytes(work.store.read(work.output(record.held_out.path))))
    if not sorts:
        return record
    reranked = {queries.name: _choose_reranked(index, queries.first(_LADDER)) for queries in sorts}
    found: list[RecallRow] = []
    for probes in _ladder(record.lists):
        rows = [
            _recall(index, queries.first(_LADDER), 0, Reach(probes=probes, gap=NO_GAP, reranked=reranked[queries.name]))
            for queries in sorts
        ]
        found += rows
        if all(row.recall_at_10 >= _ENOUGH for row in rows):
            break
    ladder = sorted({row.probes for row in found})
    reaches = {queries.name: _choose_reach(index, queries, found, reranked[queries.name]) for queries in sorts}
    record = _with_reaches(index, record, sorts, reaches)
    index = Index(path.parent, record)
    for at in range(len(SELECTIVITIES)):
        for queries in sorts:
            if any(len(ids) > 1 for ids, _ in queries.nearest[at]):  # few rows pass of few rows
                found.append(_recall(index, queries, at, None))
    speed = _speed(index, sorts[0].rows, ladder)
    work.store.put(work.output(SPEED), (strict_json.dumps(speed, indent=1) + "\n").encode())
    measured = replace(record, recall=tuple(found))
    work.store.put(work.output(CARD), render_card(measured, speed).encode())
    return measured


def least(low: int, high: int, is_enough: Callable[[int], bool]) -> int:
    """Return the least number above `low` that is enough, as far as this is monotone; `high` is taken to be enough."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _choose_reranked(index: Index, queries: _Queries) -> int:
    """Return the fewest candidates with nearly the recall of the most, at many lists."""
    if index.record.kind in OWN_ROWS:
        return _RERANKED[0]
    probes = min(index.record.lists, 256)
    recalls = [
        _recall_at_10(index, queries, Reach(probes=probes, gap=NO_GAP, reranked=reranked)) for reranked in _RERANKED
    ]
    return next(
        reranked for reranked, recall in zip(_RERANKED, recalls, strict=True) if recall >= recalls[-1] - _RERANKED_LOSS
    )


def _choose_reach(index: Index, queries: _Queries, rows: Sequence[RecallRow], reranked: int) -> Reach:
    """Return the reach that looks at the fewest lists: a number of them, or those within a gap, at most twice as many.

    A query that many centroids are near needs more lists than one that few are near: a gap saves a quarter of the lists
    of pictures' searches at equal recall.
    """
    wanted = WANTED[queries.name] + _MARGIN[queries.name]

    def is_enough(reach: Reach) -> bool:
        return _recall_at_10(index, queries, reach) >= wanted

    mine = [row for row in rows if row.queries == queries.name]
    enough = next((row.probes for row in mine if row.recall_at_10 >= wanted), mine[-1].probes)
    by_number = Reach(probes=enough, gap=NO_GAP, reranked=reranked)
    few, most = 0, _ladder(index.record.lists)[-1]
    while by_number.probes < most and not is_enough(by_number):
        few, by_number = by_number.probes, replace(by_number, probes=min(most, 2 * by_number.probes))
    least_probes = least(few, by_number.probes, lambda probes: is_enough(replace(by_number, probes=probes)))
    by_number = replace(by_number, probes=least_probes)
    by_gap = replace(by_number, probes=min(index.record.lists, 2 * by_number.probes))
    steps = least(0, _STEPS, lambda steps: is_enough(replace(by_gap, gap=steps / 1_000)))
    by_gap = replace(by_gap, gap=steps / 1_000)
    saves = index.lists_within(queries.rows, by_gap).mean() < by_number.probes
    return by_gap if saves and steps < _STEPS else by_number


def _with_reaches(
    index: Index, record: IndexRecord, sorts: Sequence[_Queries], reaches: Mapping[str, Reach]
) -> IndexRecord:
    """Return the record with the reach of near and of far queries.

    Far are the queries whose cosine with the nearest centroid is below the middle of the medians of pictures and texts.
    """
    medians = {queries.name: float(np.median(index.nearest_centroids(queries.rows))) for queries in sorts}
    near = "images" if record.modality == "image" else "texts"
    (far,) = {*reaches} - {near} or {near}
    if near not in reaches or far == near or medians[far] >= medians[near]:
        furthest = max(reaches.values(), key=lambda reach: (reach.gap == NO_GAP, reach.probes))
        return replace(record, near=furthest, far=furthest)
    below = round((medians[near] + medians[far]) / 2, 4)
    return replace(record, near=reaches[near], far=reaches[far], far_below=below)


def _ladder(lists: int) -> list[int]:
    return [probes for probes in _PROBES if probes < lists] or [lists]


def _queries(work: Work, held_out: HeldOut) -> list[_Queries]:
    if not len(held_out.ids):
        return []
    rows = np.concatenate((held_out.images, held_out.texts)).astype(np.float32)
    nearest = NearestRows(rows)
    for at in range(work.plan.ranges):
        nearest.merge(work.store.read(work.path(f"merge/{at:06d}.nearest")))
    lengths = np.linalg.norm(rows, axis=1)  # a search divides by them
    lists = [
        tuple((ids, near / length) for (ids, near), length in zip(nearest.lists(at), lengths, strict=True))
        for at in range(len(SELECTIVITIES))
    ]
    count = len(held_out.images)
    found = [_Queries("images", rows[:count], held_out.ids, tuple(one[:count] for one in lists))]
    if len(held_out.texts):
        found.append(_Queries("texts", rows[count:], held_out.ids, tuple(one[count:] for one in lists)))
    return found


def _recall_at_10(index: Index, queries: _Queries, reach: Reach) -> float:
    """Return what `_recall` says of ten results, at a tenth of its cost: rows are compared for each result."""
    found = index.search(queries.rows, _searches(index)[0] + 1, where=Filter(share=SELECTIVITIES[0]), probes=reach)
    recalls = [
        recall_of((hits.ids, hits.similarities), nearest, own, 10)
        for hits, own, nearest in zip(found, queries.ids.tolist(), queries.nearest[0], strict=True)
    ]
    known = [one for one in recalls if one is not None]
    return round(float(np.mean(known)), 4) if known else 0.0


def _recall(index: Index, queries: _Queries, at: int, reach: Reach | None) -> RecallRow:
    """Search for as many results as each recall is about: candidates are a number for each result."""
    where = Filter(share=SELECTIVITIES[at])
    found = {most: index.search(queries.rows, most + 1, where=where, probes=reach) for most in _searches(index)}
    shares: Mapping[int, list[float]] = {1: [], 10: [], 100: []}
    for one, (own, nearest) in enumerate(zip(queries.ids.tolist(), queries.nearest[at], strict=True)):
        for most, of in shares.items():
            hits = found[max(most, min(found))][one]
            recall = recall_of((hits.ids, hits.similarities), nearest, own, most)
            if recall is not None:
                of.append(recall)
    first, ten, hundred = (round(float(np.mean(of)), 4) if of else 0.0 for of in shares.values())
    return RecallRow(
        queries=queries.name,
        selectivity=SELECTIVITIES[at],
        probes=round(float(index.lists_within(queries.rows, reach).mean())),
        usual=reach is None,
        recall_at_1=first,
        recall_at_10=ten,
        recall_at_100=hundred,
    )


def _searches(index: Index) -> tuple[int, ...]:
    """Return for how many results to search: one search tells all recalls if the codes are the rows."""
    return (100,) if index.record.kind in OWN_ROWS else (10, 100)


def _speed(index: Index, queries: Rows, ladder: list[int]) -> dict[str, object]:
    """Return the median milliseconds of single searches by probes, and the most probes within each budget."""
    took = {}
    for probes in ladder:
        times = []
        for query in queries[:_TIMED]:
            start = time.perf_counter()
            index.search(query[None], 10, probes=probes)
            times.append(1_000 * (time.perf_counter() - start))
        took[probes] = round(statistics.median(times), 3)
    within = {
        str(budget): max((probes for probes, ms in took.items() if ms <= budget), default=None) for budget in BUDGETS_MS
    }
    return {"milliseconds": {str(probes): ms for probes, ms in took.items()}, "probes_within_ms": within}
