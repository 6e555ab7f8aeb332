"""The leader join: in the order of quality, a row that no earlier representative covers becomes one.

    new     new rows ─▶ the most similar of the representatives of earlier rounds, or none
    rest    the rows that are left ─▶ pairs among themselves, the better row first
    sweep   pairs in the order of quality ─▶ representatives of this round, and the rows that they cover

The result is the greedy maximal set of rows without a pair at the threshold. Covered rows are never compared again,
and a round is at most as large as all before it, so a group of any size costs about one pair a member.

The guard: where a cell has more than GUARD_PAIRS near-duplicates (a large group whose rows all rank first), pairs are
not listed. Rows are taken in blocks that double, against the leaders of this cell; a row that such a leader covers
gives that pair alone. If the leader turns out to be covered by a row of another cell, the row is an orphan: new again
in the next round. Candidates that are no near-duplicates do not count: different pictures that are alike may give
millions, and the guard, which compares all visitors of a cell with each other, would take longer than to read them.

Rejected: a list of all pairs, which grows with the square of a group, and components of it, which chain.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dataset.dedup.candidates import Rows, near_pairs
from dataset.dedup.projection import Floats, code_threshold
from dataset.dedup.rescore import STEP

Integers = npt.NDArray[np.int64]
Steps = npt.NDArray[np.int16]
Bools = npt.NDArray[np.bool_]

GUARD_PAIRS = 16_384
"""Near-duplicates of a cell; if it has more, its pairs are not listed. To compare as many exactly takes 0.02 s."""
_FIRST_BLOCK, _LAST_BLOCK = 64, 4096
_ROWS_AT_ONCE = 4096
_CANDIDATES_AT_ONCE = 1 << 18
_PRODUCTS_OF_CELL = 1 << 20
"""In a cell of one large group all of them are pairs, of 16 bytes, before the guard sees how many."""

Judge = Callable[[Integers, Integers], tuple[Steps, Bools]]
"""Takes pairs of rows by their numbers here; returns exact cosines, and whether these are near-duplicates."""


@dataclass(frozen=True, slots=True)
class Places:
    """Which rows lie in which cell: cell `cells[i]` has the rows rows[starts[i]:starts[i + 1]]."""

    cells: Integers
    starts: Integers
    rows: Integers

    @classmethod
    def of(cls, cells: npt.NDArray[np.integer], rows: Integers) -> "Places":
        """Sort (cell, row) pairs by cell; rows of a cell keep their order."""
        lowest = int(cells.min()) if len(cells) else 0
        narrow = len(cells) > 0 and int(cells.max()) - lowest < 2**16
        # two bytes are sorted by digits, several times as fast
        order = np.argsort((cells - lowest).astype(np.uint16) if narrow else cells, kind="stable")
        ordered = cells[order]
        first = np.flatnonzero(starts_of_runs(ordered))
        return cls(ordered[first].astype(np.int64), np.append(first, len(cells)), rows[order])

    def by_cell(self) -> Mapping[int, Integers]:
        """Return the rows of each cell."""
        borders = self.starts.tolist()
        return {
            cell: self.rows[start:end]
            for cell, start, end in zip(self.cells.tolist(), borders, borders[1:], strict=False)
        }


def starts_of_runs(values: npt.NDArray[np.integer]) -> Bools:
    """Return which values differ from the one before -> (N,)."""
    found = np.ones(len(values), bool)
    found[1:] = values[1:] != values[:-1]
    return found


NEAREST = np.dtype([("row", "<i8"), ("leader", "<i8"), ("cosine", "<i2"), ("quality", "<u8"), ("id", "<i8")])
"""A row with a representative of it, by their nodes; quality and id are the representative's."""
EDGE = np.dtype(
    [("better", "<i8"), ("worse", "<i8"), ("cosine", "<i2"), ("better_quality", "<u8"), ("better_id", "<i8"),
     ("worse_quality", "<u8"), ("worse_id", "<i8")]
)  # fmt: skip
COVER = np.dtype([("row", "<i8"), ("leader", "<i8"), ("cosine", "<i2")])
Records = npt.NDArray[np.void]


def nearest_leaders(
    new: tuple[Rows, Places, Places], old: tuple[Rows, Places, Places], from_product: float, judge: Judge
) -> Records:
    """Return the most similar representative of each new row that has one -> NEAREST records.

    Each side is its rows, the cells where they are at home, and the cells that they visit. `judge` takes numbers of new
    rows and of old ones.
    """
    gathered: list[Records] = []
    found: list[tuple[Integers, Integers, Floats]] = []
    waiting = 0
    (new_rows, new_home, new_visits), (old_rows, old_home, old_visits) = new, old

    def flush() -> None:
        nonlocal found, waiting
        if found:
            a, b, products = (np.concatenate(column) for column in zip(*found, strict=True))
            gathered.append(_nearest(new_rows, old_rows, a, b, products, judge))
        found, waiting = [], 0

    for mine, theirs in ((new_home, old_home), (new_visits, old_home), (new_home, old_visits)):
        known = theirs.by_cell()
        for cell, rows in mine.by_cell().items():
            others = known.get(cell)
            if others is None:
                continue
            codes = old_rows.short[others]
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                some = rows[start : start + _ROWS_AT_ONCE]
                left, right, products = near_pairs(new_rows, some, old_rows, others, from_product, codes)
                if len(left):
                    found.append((some[left], others[right], products))
                    waiting += len(left)
                if waiting >= _CANDIDATES_AT_ONCE:
                    flush()
    flush()
    return most_similar(np.concatenate(gathered)) if gathered else np.empty(0, NEAREST)


def most_similar(found: Records) -> Records:
    """Return the best record of each row: by cosine, the leader's quality and id."""
    order = np.lexsort((found["id"], found["quality"], -found["cosine"].astype(np.int32), found["row"]))
    ordered = found[order]
    return ordered[starts_of_runs(ordered["row"])]


def _nearest(new: Rows, old: Rows, a: Integers, b: Integers, products: Floats, judge: Judge) -> Records:
    """Return the best record of each row that has one among candidates.

    Of each row the candidate with the highest product is read first. A product is never below the cosine, so those
    with a lower one than the cosine that was found are not read.
    """
    highest = np.zeros(len(new.node), np.float32)
    np.maximum.at(highest, a, products)
    first = products == highest[a]
    near, found = _judged(new, old, a[first], b[first], judge)
    reached = np.zeros(len(new.node), np.float32)
    np.maximum.at(reached, near, code_threshold((found["cosine"] - 0.5) * STEP, 1.0).astype(np.float32))
    left = ~first & (products >= reached[a])
    _, others = _judged(new, old, a[left], b[left], judge)
    return most_similar(np.concatenate([found, others]))


def _judged(new: Rows, old: Rows, a: Integers, b: Integers, judge: Judge) -> tuple[Integers, Records]:
    """Return the pairs that are near-duplicates, each once, and the numbers of their new rows."""
    a, b = _distinct(a, b, len(old.node))
    cosines, near = judge(a, b)
    a, b, cosines = a[near], b[near], cosines[near]
    found = np.empty(len(a), NEAREST)
    found["row"], found["leader"], found["cosine"] = new.node[a], old.node[b], cosines
    found["quality"], found["id"] = old.quality[b], old.id[b]
    return a, found


def _distinct(a: Integers, b: Integers, end: int) -> tuple[Integers, Integers]:
    """Return each pair once, in ascending order; all b are below `end`."""
    pairs = np.sort(a * end + b)  # np.unique hashes first, which takes longer
    pairs = pairs[starts_of_runs(pairs)]
    return pairs // max(1, end), pairs % max(1, end)


def pairs_of_rest(
    rows: Rows, home: Places, visiting: Places, from_product: float, judge: Judge, *, guard_pairs: int = GUARD_PAIRS
) -> tuple[Records, Integers]:
    """Return the pairs among rows -> EDGE records, and the nodes whose pairs the guard left out."""
    ranks = rows.ranks()
    visitors = visiting.by_cell()
    gathered, guarded = [], []
    a: list[Integers] = []
    b: list[Integers] = []
    waiting = 0

    def flush() -> None:
        nonlocal a, b, waiting
        if a:
            gathered.append(_edges(rows, ranks, np.concatenate(a), np.concatenate(b), judge))
        a, b, waiting = [], [], 0

    for cell, mine in home.by_cell().items():
        visits = visitors.get(cell, np.empty(0, np.int64))
        found = _pairs_of_cell(rows, ranks, mine, visits, from_product, judge, guard_pairs)
        if found is None:
            edges, members = _guarded(rows, ranks, np.concatenate([mine, visits]), from_product, judge)
            gathered.append(edges)
            guarded.append(members)
            continue
        candidates, edges_of_cell = found
        gathered += edges_of_cell
        for left, right in candidates:
            a.append(left)
            b.append(right)
            waiting += len(left)
        if waiting >= _CANDIDATES_AT_ONCE:
            flush()
    flush()
    edges = np.concatenate(gathered) if gathered else np.empty(0, EDGE)
    members = np.unique(np.concatenate(guarded)) if guarded else np.empty(0, np.int64)
    return edges, rows.node[members]


def _pairs_of_cell(
    rows: Rows, ranks: Integers, mine: Integers, visits: Integers, from_product: float, judge: Judge, most: int
) -> tuple[list[tuple[Integers, Integers]], list[Records]] | None:
    """Return candidates that are still to be judged, and the near-duplicates among the others; None if these are more
    than `most`.
    """
    waiting: list[tuple[Integers, Integers]] = []
    judged: list[Records] = []
    count, near, at_once = 0, 0, max(1, most)
    for candidates in _candidates_of_cell(rows, mine, visits, from_product):
        waiting.append(candidates)
        count += len(candidates[0])
        if count <= at_once:
            continue
        a, b = (np.concatenate(column) for column in zip(*waiting, strict=True))
        start = 0
        while start < count:
            judged.append(_edges(rows, ranks, a[start : start + at_once], b[start : start + at_once], judge))
            near += len(judged[-1])
            if near > most:
                return None
            start, at_once = start + at_once, min(2 * at_once, _CANDIDATES_AT_ONCE)
        waiting, count = [], 0
    return waiting, judged


def _candidates_of_cell(
    rows: Rows, mine: Integers, visits: Integers, from_product: float
) -> Iterator[tuple[Integers, Integers]]:
    """Return candidates among rows at home, and of visitors with these, in pieces."""
    own = rows.short[mine]
    at_once = min(_ROWS_AT_ONCE, max(_FIRST_BLOCK, _PRODUCTS_OF_CELL // max(1, len(mine))))
    for others, inside in ((mine, True), (visits, False)):
        for start in range(0, len(others), at_once):
            some = others[start : start + at_once]
            left, right, _ = near_pairs(rows, some, rows, mine, from_product, own)
            if inside:
                above = left + start < right
                left, right = left[above], right[above]
            if len(left):
                yield some[left], mine[right]


def _edges(rows: Rows, ranks: Integers, a: Integers, b: Integers, judge: Judge) -> Records:
    """Return pairs that are near-duplicates, each once, the better row first."""
    better = np.where(ranks[a] < ranks[b], a, b)
    worse = a + b - better
    better, worse = _distinct(better, worse, len(rows.node))
    if not len(better):
        return np.empty(0, EDGE)
    cosines, near = judge(better, worse)
    better, worse = better[near], worse[near]
    found = np.empty(len(better), EDGE)
    found["better"], found["worse"], found["cosine"] = rows.node[better], rows.node[worse], cosines[near]
    found["better_quality"], found["better_id"] = rows.quality[better], rows.id[better]
    found["worse_quality"], found["worse_id"] = rows.quality[worse], rows.id[worse]
    return found


def _guarded(
    rows: Rows, ranks: Integers, mine: Integers, from_product: float, judge: Judge
) -> tuple[Records, Integers]:
    """Return the pairs (leader of this cell, row), and the rows of which other pairs may be missing."""
    ordered = mine[np.argsort(ranks[mine], kind="stable")]
    leaders = np.empty(0, np.int64)
    gathered, members = [], []
    start, size = 0, _FIRST_BLOCK
    while start < len(ordered):
        block = ordered[start : start + size]
        start, size = start + size, min(2 * size, _LAST_BLOCK)
        left, right, _ = near_pairs(rows, block, rows, leaders, from_product)
        edges = _edges(rows, ranks, leaders[right], block[left], judge)
        covered = np.isin(rows.node[block], edges["worse"])
        members.append(block[covered])
        free = block[~covered]
        left, right, _ = near_pairs(rows, free, rows, free, from_product)
        above = left < right
        inner = _edges(rows, ranks, free[left[above]], free[right[above]], judge)
        cover, _ = sweep(inner, np.empty(0, np.int64))
        follows = np.isin(rows.node[free], cover["row"])
        members.append(free[follows])
        leaders = np.concatenate([leaders, free[~follows]])
        gathered += [edges, inner[np.isin(inner["better"], rows.node[free[~follows]])]]
    return np.concatenate(gathered), np.concatenate(members)


def sweep(edges: Records, guarded: Integers) -> tuple[Records, Integers]:
    """Return the rows that representatives of this round cover -> COVER records by row, and the orphans' nodes.

    All other rows of the round are representatives. A row goes to the most similar of them.
    """
    order = np.lexsort((edges["worse_id"], edges["worse_quality"], edges["better_id"], edges["better_quality"]))
    ordered = edges[order]
    ordered = ordered[starts_of_runs(ordered["better"]) | starts_of_runs(ordered["worse"])]
    better, worse, cosine = ordered["better"], ordered["worse"], ordered["cosine"].tolist()
    cuts = np.flatnonzero(np.diff(better)) + 1
    borders = [0, *cuts.tolist(), len(ordered)]
    waiting = set(guarded.tolist())
    best: dict[int, tuple[int, int]] = {}
    names = worse.tolist()
    for start, end in pairwise(borders):
        if start == end:
            continue
        leader = int(better[start])
        if leader in best or leader in waiting:
            continue
        for at in range(start, end):
            known = best.get(names[at])
            if known is None or cosine[at] > known[1]:
                best[names[at]] = (leader, cosine[at])
    covers = np.empty(len(best), COVER)
    for at, row in enumerate(sorted(best)):
        covers[at] = (row, *best[row])
    orphans = np.array(sorted(waiting - best.keys()), np.int64)
    return covers, orphans
