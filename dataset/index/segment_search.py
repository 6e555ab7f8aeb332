"""The nearest rows of queries within one segment: which lists to look at, scanning them, exact ranking.

A filter costs about what no filter costs: lists are taken in the order of their centroids until they hold enough rows
that pass, and rows that do not pass cost a bit test each. If few rows pass in all, they are compared one by one.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import IndexRecord, Reach
from dataset.index.exact import inner_products
from dataset.index.filter_bits import FilterBits
from dataset.index.kinds import HNSW_LISTS, OWN_ROWS, Trained
from dataset.index.mapped import MappedSegment

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Found = list[tuple[Integers, Rows]]

BRUTE_ROWS = 2_000
"""Passing rows that are compared one by one: 1 to 2 ms of 768 dimensions, about a search's cost."""
_BLOCK_ROWS = 4_096
_MORE_LISTS = 1.25
"""Lists near a query hold fewer passing rows than the average, sometimes."""
_SHARE_POWER = 0.5
"""The rarer the rows that pass, the fewer of them give the same recall: the ten nearest of a tenth of the rows are of
the hundred nearest of all, which take three times as many lists, not ten times."""
_RERANKED_OF_MANY = 2
"""Candidates per result, beyond the first hundred results."""
NO_GAP = 4.0
"""More than any two cosines differ."""
_ROWS_PER_RESULT = 4
"""Rows that a search looks at, at least, for each result; with a filter, rows that pass."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """One look at lists for k results, `factor` times as far as a first look goes; inf: at all."""

    k: int
    bits: FilterBits | None
    reach: Reach | None
    factor: float


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The lists that queries look at, and how many candidates each wants."""

    near: Rows  # (n, L) similarities of centroids, the best first
    lists: Integers  # (n, L); −1 for lists that the query need not look at
    candidates: Integers  # (n,)


class SegmentSearch:
    """Searches one segment; `trained` has the centroids of all segments."""

    def __init__(self, segment: MappedSegment, trained: Trained, record: IndexRecord) -> None:
        self._segment, self._trained, self._record = segment, trained, record
        self._own_rows = record.kind in OWN_ROWS
        self._mean_list = max(1.0, segment.rows / record.lists)

    def search(self, queries: Rows, k: int, bits: FilterBits | None, reach: Reach | None) -> Found:
        """Return positions and exact similarities of the k nearest rows of each query that pass, best first.

        Shapes: queries (n, D) float32 unit rows. A query gets fewer than k rows only if fewer pass. `reach` None means
        the record's, for near and for far queries.
        """
        if bits is not None and float(bits.counts.sum()) <= max(BRUTE_ROWS, k):
            bits.fill_all()
            if float(bits.counts.sum()) <= max(BRUTE_ROWS, k):
                return self._compare_all(queries, k, bits.positions())
        rotated = self._trained.rotate(queries)
        passing = self._segment.rows if bits is None else float(bits.counts.sum())
        found: Found = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        waiting = np.arange(len(queries))
        factor = 1.0
        while len(waiting):
            asked, some = self._scan(queries, rotated, waiting, _Scan(k, bits, reach, factor))
            for at, one in zip(waiting.tolist(), some, strict=True):
                found[at] = (one[0][:k], one[1][:k])
            if factor == np.inf:
                break
            waiting = waiting[[len(found[at][0]) < min(k, passing) for at in waiting.tolist()]]
            factor = np.inf if 4 * asked >= self._record.lists else 4 * factor
        return found

    def nearest_centroids(self, queries: Rows) -> Rows:
        """Return the cosine of each query with the nearest centroid -> (n,) float32."""
        return self._nearest_lists(self._trained.rotate(queries), 1)[0][:, 0]

    def lists_within(self, queries: Rows, reach: Reach | None) -> Integers:
        """Return how many lists searches for one result look at without a filter -> (n,) int64."""
        chosen = self._lists_to_scan(self._trained.rotate(queries), _Scan(1, None, reach, 1.0))
        return np.asarray(np.count_nonzero(chosen.lists >= 0, axis=1), np.int64)

    def _scan(self, queries: Rows, rotated: Rows, some: Integers, scan: "_Scan") -> tuple[int, Found]:
        """Search lists of some queries; return how many lists were asked for, at most, and what was found."""
        chosen = self._lists_to_scan(np.ascontiguousarray(rotated[some]), scan)
        found: Found = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(some)
        for candidates in np.unique(chosen.candidates).tolist():
            here = np.flatnonzero(chosen.candidates == candidates)
            similarities, positions = self._look(rotated[some[here]], chosen, here, candidates, scan.bits)
            for row, at in enumerate(here.tolist()):
                found[at] = self._ranked(queries[some[at]], positions[row], similarities[row])
        return chosen.lists.shape[1], found

    def _look(
        self, rows: Rows, chosen: "_Chosen", here: Integers, candidates: int, bits: FilterBits | None
    ) -> tuple[Rows, Integers]:
        """Scan the lists of the queries `here` by their codes -> similarities and positions (n, candidates)."""
        near, lists = np.ascontiguousarray(chosen.near[here]), np.ascontiguousarray(chosen.lists[here])
        rows = np.ascontiguousarray(rows)
        selector = None if bits is None else faiss.IDSelectorBitmap(bits.bits)
        similarities = np.empty((len(here), candidates), np.float32)
        positions = np.empty((len(here), candidates), np.int64)
        self._segment.ivf.search_preassigned_c(
            len(here),
            faiss.swig_ptr(rows),
            candidates,
            faiss.swig_ptr(lists),
            faiss.swig_ptr(near),
            faiss.swig_ptr(similarities),
            faiss.swig_ptr(positions),
            False,
            self._parameters(selector, lists.shape[1]),
        )
        return similarities, positions

    def _lists_to_scan(self, rows: Rows, scan: "_Scan") -> "_Chosen":
        """Choose the nearest lists of each query: a number of them, or those within a gap.

        With a filter: lists until they hold the rows that are wanted.
        """
        record = self._record
        reaches = [scan.reach] if scan.reach else [record.near, record.far]
        asked = max(self._asked(reach, scan) for reach in reaches)
        near, lists = self._nearest_lists(rows, asked)
        far = (near[:, 0] < record.far_below).astype(int) if len(reaches) > 1 else np.zeros(len(rows), int)
        most, gaps, candidates = (
            np.array(values)[far]
            for values in zip(*((one.probes, one.gap, self._candidates(one, scan.k)) for one in reaches), strict=True)
        )
        limits = np.clip(np.count_nonzero(near >= near[:, :1] - gaps[:, None], axis=1), 1, most)
        if scan.bits is None:
            kept = np.maximum(limits, np.ceil(_ROWS_PER_RESULT * candidates / self._mean_list)) * scan.factor
            lists[np.arange(asked) >= kept[:, None]] = -1
        else:
            scan.bits.fill_lists(lists[lists >= 0])
            held = np.cumsum(np.where(lists >= 0, scan.bits.counts[lists], 0), axis=1)
            lists[:, 1:][held[:, :-1] >= self._wanted(limits, candidates, scan)[:, None]] = -1
        return _Chosen(near, lists, candidates)

    def _candidates(self, reach: Reach, k: int) -> int:
        """Return how many rows are ranked exactly for k results."""
        return k if self._own_rows else max(reach.reranked * min(k, 100), _RERANKED_OF_MANY * k)

    def _wanted(self, limits: Any, candidates: Any, scan: "_Scan") -> Any:
        """Return how many passing rows queries look at that would look at `limits` lists without a filter."""
        assert scan.bits is not None
        share = min(1.0, float(scan.bits.counts.sum()) / self._segment.rows)
        return np.maximum(limits * self._mean_list * share**_SHARE_POWER, _ROWS_PER_RESULT * candidates) * scan.factor

    def _asked(self, reach: Reach, scan: "_Scan") -> int:
        """Return how many lists to order by nearness, so that they hold the rows that are wanted."""
        lists, candidates = self._record.lists, self._candidates(reach, scan.k)
        if scan.factor == np.inf:
            return lists
        if scan.bits is None:
            wanted = max(reach.probes, _ROWS_PER_RESULT * candidates / self._mean_list) * scan.factor
        else:
            passing = max(1e-9, float(scan.bits.counts.sum()) / lists)
            wanted = _MORE_LISTS * float(self._wanted(reach.probes, candidates, scan)) / passing
        return int(min(lists, max(1, np.ceil(wanted))))

    def _parameters(self, selector: Any, asked: int) -> Any:
        if self._record.kind == "rabitq":
            found = faiss.IVFRaBitQSearchParameters()
            found.qb = self._segment.ivf.qb
        else:
            found = faiss.SearchParametersIVF()
        found.nprobe = asked
        if selector is not None:
            found.sel = selector
        return found

    def _nearest_lists(self, rotated: Rows, asked: int) -> tuple[Rows, Integers]:
        """Return similarities and numbers of the nearest lists of each query -> (n, asked) twice."""
        parameters = None
        if self._record.lists >= HNSW_LISTS:
            parameters = faiss.SearchParametersHNSW()
            parameters.efSearch = 2 * asked
        near, lists = self._trained.coarse.search(rotated, asked, params=parameters)
        return near, lists

    def _ranked(self, query: Rows, positions: Integers, similarities: Rows) -> tuple[Integers, Rows]:
        """Return the rows that were found and are alive, ranked by exact similarity."""
        found = positions >= 0
        positions, similarities = positions[found], similarities[found]
        if not self._own_rows and len(positions):
            positions = np.sort(positions)
            similarities = self._compare(query[None], positions)[0]
        alive = self._segment.alive(positions)
        if not alive.all():
            positions, similarities = positions[alive], similarities[alive]
        order = np.argsort(-similarities, kind="stable")
        return positions[order], similarities[order]

    def _compare(self, queries: Rows, positions: Integers) -> Rows:
        """Return the exact similarities of queries and rows -> (n, m) float32."""
        found = [
            inner_products(
                queries, self._segment.vectors(positions[start : start + _BLOCK_ROWS], self._record.dimensions)
            )
            for start in range(0, len(positions), _BLOCK_ROWS)
        ]
        return np.concatenate(found, axis=1) if found else np.empty((len(queries), 0), np.float32)

    def _compare_all(self, queries: Rows, k: int, positions: Integers) -> Found:
        near = self._compare(queries, positions)
        found: Found = []
        for similarities in near:
            order = np.argsort(-similarities, kind="stable")[:k]
            alive = self._segment.alive(positions[order])
            found.append((positions[order][alive], similarities[order][alive]))
        return found
