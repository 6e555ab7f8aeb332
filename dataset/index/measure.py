"""Recall of an index on held-out queries, and the number of probed lists that it needs.

Queries are pictures and texts that were not trained on; the row that a query came from is taken out of what is expected
and of what is found. The same build gives the same numbers. Milliseconds differ; speed.json and README.md have them.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dataset import strict_json
from dataset.formats.index_files import SPEED, IndexRecord, RecallRow
from dataset.index.card import CARD, render_card
from dataset.index.filters import Filter
from dataset.index.lookup import Index
from dataset.index.neighbours import NEIGHBOURS, SELECTIVITIES, NearestRows, recall_of
from dataset.index.plan import Work
from dataset.index.train import HeldOut

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BUDGETS_MS = (5, 10, 20, 50)
IMAGES_WANTED, TEXTS_WANTED = 0.95, 0.90
"""Recall at 10 that the default number of probes has to reach."""
_ENOUGH = 0.995
_PROBES = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
_TIMED = 32


@dataclass(frozen=True, slots=True)
class _Queries:
    """Queries of one sort, the ids of their own rows, and their nearest rows and similarities by selectivity."""

    name: str
    rows: Rows
    ids: Integers
    nearest: tuple[tuple[tuple[Integers, Rows], ...], ...]


def measure(work: Work, record: IndexRecord) -> IndexRecord:
    """Return the record with recall and the number of probes; write speed.json."""
    path = work.store.local_path(work.output("index.json"))
    assert path is not None
    index = Index(path.parent, record)
    held_out = HeldOut.from_bytes(work.store.read(work.output(record.held_out.path)))
    sorts = _queries(work, held_out)
    if not sorts:
        return record
    found: list[RecallRow] = []
    for probes in _ladder(record.lists):
        rows = [_recall(index, queries, 0, probes) for queries in sorts]
        found += rows
        if all(row.recall_at_10 >= _ENOUGH for row in rows):
            break
    record = _with_probes(index, record, sorts, found)
    index = Index(path.parent, record)
    for at in range(1, len(SELECTIVITIES)):
        for queries in sorts:
            if any(len(ids) > 1 for ids, _ in queries.nearest[at]):  # few rows pass of few rows
                found.append(_recall(index, queries, at, choose_probes(found, queries.name)))
    speed = _speed(index, sorts[0].rows, sorted({row.probes for row in found}))
    work.store.put(work.output(SPEED), (strict_json.dumps(speed, indent=1) + "\n").encode())
    measured = replace(record, recall=tuple(found))
    work.store.put(work.output(CARD), render_card(measured, speed).encode())
    return measured


def choose_probes(rows: Sequence[RecallRow], queries: str) -> int:
    """Return the fewest probes with the recall wanted of these queries; otherwise the most measured."""
    wanted = {"images": IMAGES_WANTED, "texts": TEXTS_WANTED}[queries]
    of_these = sorted((row for row in rows if row.queries == queries), key=lambda row: row.probes)
    return next((row.probes for row in of_these if row.recall_at_10 >= wanted), of_these[-1].probes)


def _with_probes(
    index: Index, record: IndexRecord, sorts: Sequence[_Queries], rows: Sequence[RecallRow]
) -> IndexRecord:
    """Return the record with the probes of near and of far queries.

    Far are the queries whose cosine with the nearest centroid is below the middle of the medians of pictures and texts.
    """
    probes = {queries.name: choose_probes(rows, queries.name) for queries in sorts}
    medians = {queries.name: float(np.median(index.nearest_centroids(queries.rows))) for queries in sorts}
    near = "images" if record.modality == "image" else "texts"
    (far,) = {*probes} - {near} or {near}
    if far not in probes or near not in probes or probes[far] <= probes[near] or medians[far] >= medians[near]:
        most = max(probes.values())
        return replace(record, probes=most, far_probes=most)
    below = round((medians[near] + medians[far]) / 2, 4)
    return replace(record, probes=probes[near], far_probes=probes[far], far_below=below)


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


def _recall(index: Index, queries: _Queries, at: int, probes: int) -> RecallRow:
    where = Filter(share=SELECTIVITIES[at])
    hits = index.search(queries.rows, NEIGHBOURS, where=where, probes=probes)
    shares: Mapping[int, list[float]] = {1: [], 10: [], 100: []}
    for one, own, nearest in zip(hits, queries.ids.tolist(), queries.nearest[at], strict=True):
        for most, of in shares.items():
            recall = recall_of((one.ids, one.similarities), nearest, own, most)
            if recall is not None:
                of.append(recall)
    first, ten, hundred = (round(float(np.mean(of)), 4) if of else 0.0 for of in shares.values())
    return RecallRow(
        queries=queries.name,
        selectivity=SELECTIVITIES[at],
        probes=probes,
        recall_at_1=first,
        recall_at_10=ten,
        recall_at_100=hundred,
    )


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
