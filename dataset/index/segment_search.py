"""The nearest rows of queries within one segment: which lists to look at, scanning them, exact ranking.

A filter costs about what no filter costs: lists are taken in the order of their centroids until they hold enough rows
that pass, and rows that do not pass cost a bit test each. If few rows pass in all, they are compared one by one.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import IndexRecord
from dataset.index.filter_bits import FilterBits
from dataset.index.kinds import OWN_ROWS, Trained
from dataset.index.mapped import MappedSegment

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Found = list[tuple[Integers, Rows]]

BRUTE_ROWS = 500
"""Passing rows that are compared one by one: 2 ms of 768 dimensions, about a search's cost."""
_BLOCK_ROWS = 4_096
_MORE_LISTS = 1.25
"""Lists near a query hold fewer passing rows than the average, sometimes."""
_SHARE_POWER = 0.5
"""The rarer the rows that pass, the fewer of them give the same recall: the ten nearest of a tenth of the rows are of
the hundred nearest of all, which take three times as many lists, not ten times."""
_ROWS_PER_RESULT = 4
"""Rows that a search looks at, at least, for each result; with a filter, rows that pass."""


@dataclass(frozen=True, slots=True)
class _Scan:
    """One look at lists, `factor` times as far as a first look goes; inf: at all."""

    candidates: int
    bits: FilterBits | None
    probes: int | None
    factor: float


class SegmentSearch:
    """Searches one segment; `trained` has the centroids of all segments."""

    def __init__(self, segment: MappedSegment, trained: Trained, record: IndexRecord) -> None:
        self._segment, self._trained, self._record = segment, trained, record
        self._own_rows = record.kind in OWN_ROWS
        self._mean_list = segment.rows / record.lists

    def search(self, queries: Rows, k: int, candidates: int, bits: FilterBits | None, probes: int | None) -> Found:
        """Return positions and exact similarities of the k nearest rows of each query that pass, best first.

        Shapes: queries (n, D) float32 unit rows; `candidates` rows of each query are ranked exactly; a query gets fewer
        than k rows only if fewer pass. `probes` None means the record's numbers, for near and for far queries.
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
            scan = _Scan(candidates, bits, probes, factor)
            asked, some = self._scan(queries, rotated, waiting, scan)
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

    def _scan(self, queries: Rows, rotated: Rows, some: Integers, scan: "_Scan") -> tuple[int, Found]:
        """Search lists of some queries; return how many lists were asked for, at most, and what was found."""
        ivf = self._segment.ivf
        rows = np.ascontiguousarray(rotated[some])
        near, lists = self._lists_to_scan(rows, scan)
        asked = lists.shape[1]
        selector = None if scan.bits is None else faiss.IDSelectorBitmap(scan.bits.bits)
        parameters = self._parameters(selector, asked)
        similarities = np.empty((len(some), scan.candidates), np.float32)
        positions = np.empty((len(some), scan.candidates), np.int64)
        ivf.search_preassigned_c(
            len(some),
            faiss.swig_ptr(rows),
            scan.candidates,
            faiss.swig_ptr(lists),
            faiss.swig_ptr(near),
            faiss.swig_ptr(similarities),
            faiss.swig_ptr(positions),
            False,
            parameters,
        )
        ranked = [self._ranked(queries[at], positions[row], similarities[row]) for row, at in enumerate(some.tolist())]
        return asked, ranked

    def _lists_to_scan(self, rows: Rows, scan: "_Scan") -> tuple[Rows, Integers]:
        """Return the nearest lists of each query with their similarities, −1 for lists that it need not look at.

        It looks at a number of lists, or with a filter at lists until they hold the rows that are wanted.
        """
        usual = float(self._record.probes if scan.probes is None else scan.probes)
        near, nearest = self._nearest_lists(rows, self._asked(usual, scan))
        limits = self._limits(near[:, 0], scan)
        far = limits > usual
        if far.any():
            more_near, more = self._nearest_lists(rows[far], self._asked(float(limits.max()), scan))
            wider = ((0, 0), (0, more.shape[1] - nearest.shape[1]))
            near, nearest = np.pad(near, wider), np.pad(nearest, wider, constant_values=-1)
            near[far], nearest[far] = more_near, more
        if scan.bits is None:
            kept = (
                np.maximum(limits, np.ceil(_ROWS_PER_RESULT * scan.candidates / max(1.0, self._mean_list)))
                * scan.factor
            )
            nearest[np.arange(nearest.shape[1]) >= kept[:, None]] = -1
        else:
            scan.bits.fill_lists(nearest[nearest >= 0])
            held = np.cumsum(np.where(nearest >= 0, scan.bits.counts[nearest], 0), axis=1)
            nearest[:, 1:][held[:, :-1] >= self._wanted(limits, scan)[:, None]] = -1
        return np.ascontiguousarray(near), np.ascontiguousarray(nearest)

    def _limits(self, best: Rows, scan: "_Scan") -> Rows:
        """Return how many lists each query looks at without a filter, by its cosine with the nearest centroid."""
        if scan.probes is not None:
            return np.full(len(best), scan.probes, np.float32)
        far = best < self._record.far_below
        return np.where(far, self._record.far_probes, self._record.probes).astype(np.float32)

    def _wanted(self, limits: Rows, scan: "_Scan") -> Rows:
        """Return how many passing rows each query looks at."""
        assert scan.bits is not None
        share = min(1.0, float(scan.bits.counts.sum()) / self._segment.rows)
        rows = limits * self._mean_list * share**_SHARE_POWER
        return np.asarray(np.maximum(rows, _ROWS_PER_RESULT * scan.candidates) * scan.factor, np.float32)

    def _asked(self, limit: float, scan: "_Scan") -> int:
        """Return how many lists to order by nearness, so that they hold the rows that are wanted."""
        lists = self._record.lists
        if scan.factor == np.inf:
            return lists
        if scan.bits is None:
            return int(
                min(
                    lists,
                    np.ceil(max(limit, _ROWS_PER_RESULT * scan.candidates / max(1.0, self._mean_list)) * scan.factor),
                )
            )
        passing = max(1e-9, float(scan.bits.counts.sum()) / lists)
        wanted = float(self._wanted(np.array([limit], np.float32), scan)[0])
        return int(min(lists, max(1, np.ceil(_MORE_LISTS * wanted / passing))))

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
        quantizer = self._trained.ivf.quantizer
        parameters = None
        if not isinstance(faiss.downcast_index(quantizer), faiss.IndexFlat):
            parameters = faiss.SearchParametersHNSW()
            parameters.efSearch = 2 * asked
        near, lists = faiss.downcast_index(quantizer).search(rotated, asked, params=parameters)
        return np.ascontiguousarray(near), np.ascontiguousarray(lists)

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
            queries
            @ self._segment.vectors(positions[start : start + _BLOCK_ROWS], self._record.dimensions)
            .astype(np.float32)
            .T
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
