"""The nearest rows of queries within one segment: which lists to look at, scanning them, exact ranking.

A filter costs about what no filter costs: lists are taken in the order of their centroids until they hold as many
passing rows as a search without a filter compares; rows that do not pass cost a bit test each. If few rows pass in all,
they are compared one by one.
"""

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

BRUTE_ROWS = 2_000
"""Passing rows that are compared one by one: 2 ms of 768 dimensions, about a search's cost."""
_BLOCK_ROWS = 4_096
_ROWS_PER_RESULT = 4
"""Passing rows that a filtered search looks at, at least, for each result."""


class SegmentSearch:
    """Searches one segment; `trained` has the centroids of all segments."""

    def __init__(self, segment: MappedSegment, trained: Trained, record: IndexRecord) -> None:
        self._segment, self._trained, self._record = segment, trained, record
        self._own_rows = record.kind in OWN_ROWS
        self._mean_list = segment.rows / record.lists

    def search(self, queries: Rows, k: int, candidates: int, bits: FilterBits | None, probes: int) -> Found:
        """Return positions and exact similarities of the k nearest rows of each query that pass, best first.

        Shapes: queries (n, D) float32 unit rows; `candidates` rows of each query are ranked exactly; a query gets fewer
        than k rows only if fewer pass.
        """
        if bits is not None and float(bits.counts.sum()) <= max(BRUTE_ROWS, k):
            bits.fill_all()
            if float(bits.counts.sum()) <= max(BRUTE_ROWS, k):
                return self._compare_all(queries, k, bits.positions())
        rotated = self._trained.rotate(queries)
        passing = self._segment.rows if bits is None else float(bits.counts.sum())
        wanted = max(probes * self._mean_list, _ROWS_PER_RESULT * candidates)
        if bits is None:
            asked = max(probes, int(np.ceil(candidates / max(1.0, self._mean_list))))
        else:
            asked = int(np.ceil(1.25 * wanted / max(1e-9, passing / self._record.lists)))
        asked = min(self._record.lists, max(1, asked))
        found: Found = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        waiting = np.arange(len(queries))
        while len(waiting):
            for at, one in zip(waiting.tolist(), self._scan(queries, rotated, waiting, candidates, bits, asked, wanted),
                               strict=True):  # fmt: skip
                found[at] = (one[0][:k], one[1][:k])
            if asked >= self._record.lists:
                break
            waiting = waiting[[len(found[at][0]) < min(k, passing) for at in waiting.tolist()]]
            asked = min(self._record.lists, 4 * asked)
            wanted = np.inf if asked == self._record.lists else 4 * wanted
        return found

    def _scan(
        self,
        queries: Rows,
        rotated: Rows,
        some: Integers,
        candidates: int,
        bits: FilterBits | None,
        asked: int,
        wanted: float,
    ) -> Found:
        """Search `asked` lists of some queries, with a filter only until they hold `wanted` passing rows."""
        ivf = self._segment.ivf
        rows = np.ascontiguousarray(rotated[some])
        near, lists = self._nearest_lists(rows, asked)
        selector = None
        if bits is not None:
            bits.fill_lists(lists[lists >= 0])
            held = np.cumsum(np.where(lists >= 0, bits.counts[lists], 0), axis=1)
            lists[np.concatenate((np.zeros((len(some), 1), bool), held[:, :-1] >= wanted), axis=1)] = -1
            selector = faiss.IDSelectorBitmap(bits.bits)
        parameters = self._parameters(selector, asked)
        similarities = np.empty((len(some), candidates), np.float32)
        positions = np.empty((len(some), candidates), np.int64)
        ivf.search_preassigned_c(
            len(some),
            faiss.swig_ptr(rows),
            candidates,
            faiss.swig_ptr(lists),
            faiss.swig_ptr(near),
            faiss.swig_ptr(similarities),
            faiss.swig_ptr(positions),
            False,
            parameters,
        )
        return [self._ranked(queries[at], positions[row], similarities[row]) for row, at in enumerate(some.tolist())]

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
