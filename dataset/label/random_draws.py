"""Random draws: uniform, and the same number from each stratum of a score; every row has a known probability.

A draw takes the rows whose priorities (64 bits of the id and the seed) are lowest, so it is the same for the same seed
however the rows are read. The two draws are independent; a row is drawn by one of them with the probability
1 - (1 - n / N) (1 - m / M): n of N rows uniformly, m of the M rows of its stratum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.label.scores import Floats, Integers, Score
from dataset.label.tasks import StratifiedDraw, UniformDraw
from dataset.select.candidates import priorities
from dataset.side_tables.rows import ReleaseRows, RowGroup
from dataset.stats.threads import map_in_order

Priorities = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Stratum:
    """All rows whose score is in [low, high); `low` None: no lower bound; both None and scored False: without one."""

    low: float | None
    high: float | None
    scored: bool
    rows: int
    probability: float
    """Of each row of being drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class RandomDraw:
    """The drawn rows by id, each (N,): `strata` are positions in `known`, `uniform` says by which draw."""

    ids: Integers
    strata: Integers
    uniform: npt.NDArray[np.bool_]
    known: tuple[Stratum, ...]


@dataclass(slots=True, eq=False)
class _Lowest:
    """The rows with the lowest priorities that were seen so far."""

    count: int
    ids: Integers
    order: Priorities

    @classmethod
    def of(cls, count: int) -> "_Lowest":
        return cls(count, np.empty(0, np.int64), np.empty(0, np.uint64))

    def add(self, ids: Integers, order: Priorities) -> None:
        ids, order = np.concatenate([self.ids, ids]), np.concatenate([self.order, order])
        first = np.argsort(order, kind="stable")[: self.count]
        self.ids, self.order = ids[first], order[first]


def draw_random(
    rows: ReleaseRows,
    uniform: UniformDraw | None,
    stratified: StratifiedDraw | None,
    score: Score | None,
    seed: int,
    threads: int = 1,
) -> RandomDraw:
    """Draw rows; `score` is that of the stratified draw. All rows are read once."""
    edges = stratified.edges if stratified else ()
    columns = ["id", *(score.columns if score else ())]

    def read(group: RowGroup) -> tuple[Integers, Integers]:
        table = rows.read(group, columns)
        ids = table["id"].to_numpy()
        return ids, strata_of(score.of(table), edges) if score else np.zeros(len(ids), np.int64)

    classes = len(edges) + 2 if stratified else 1
    counts = np.zeros(classes, np.int64)
    evenly = _Lowest.of(uniform.count if uniform else 0)
    by_stratum = [_Lowest.of(stratified.per_stratum if stratified else 0) for _ in range(classes)]
    stratum_of: dict[int, int] = {}
    for ids, strata in map_in_order(read, list(rows.row_groups()), threads):
        counts += np.bincount(strata, minlength=classes)
        order = priorities(ids, 2 * seed)
        first = np.argsort(order)[: evenly.count]
        stratum_of |= dict(zip(ids[first].tolist(), strata[first].tolist(), strict=True))
        evenly.add(ids[first], order[first])
        order = priorities(ids, 2 * seed + 1)
        for at in np.unique(strata).tolist():
            mine = strata == at
            by_stratum[at].add(ids[mine], order[mine])
        stratum_of = {one: stratum_of[one] for one in evenly.ids.tolist()}
    for at, lowest in enumerate(by_stratum):
        stratum_of |= dict.fromkeys(lowest.ids.tolist(), at)
    drawn = np.array(sorted(stratum_of), np.int64)
    return RandomDraw(
        drawn,
        np.array([stratum_of[one] for one in drawn.tolist()], np.int64),
        np.isin(drawn, evenly.ids),
        _describe(edges, counts, evenly.count, [one.count for one in by_stratum]),
    )


def strata_of(scores: Floats, edges: Sequence[float]) -> Integers:
    """Return the stratum of each score, (N,) int64: 0 to len(edges), and len(edges) + 1 for NaN."""
    found = np.searchsorted(np.array(edges), scores, side="right")
    return np.where(np.isnan(scores), len(edges) + 1, found).astype(np.int64)


def _describe(
    edges: Sequence[float], counts: Integers, uniform: int, per_stratum: Sequence[int]
) -> tuple[Stratum, ...]:
    total = int(counts.sum())
    of_all = min(1.0, uniform / total) if total else 0.0
    bounds: list[tuple[float | None, float | None]] = list(zip((None, *edges), (*edges, None), strict=True))
    return tuple(
        Stratum(low, high, at <= len(edges), count, 1 - (1 - of_all) * (1 - min(1.0, wanted / max(1, count))))
        for at, ((low, high), count, wanted) in enumerate(
            zip([*bounds, (None, None)], counts.tolist(), per_stratum, strict=False)
        )
    )
