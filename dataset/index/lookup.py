"""Open an index and search it. This is the interface for scripts, notebooks and the search server.

    from dataset.index.filters import parse_filter
    from dataset.index.lookup import open_index

    index = open_index(".shoal/store/releases/laion/index/ViT-L-14/image")
    (hits,) = index.search(queries, 10, where=parse_filter("safe,lang=de"))     # queries: (1, 768) float32
    hits.ids, hits.similarities, hits.total
    index.rows(hits.ids)           # [{"id": 17, "url": "https://…", "caption": "…", "WIDTH": 640, …}, …]
    index.embeddings(hits.ids)     # (10, 768) float16
    index.count(parse_filter("lang=de")), index.facets()

`search` returns the k nearest rows that pass the filter, whenever k rows pass; similarities are exact: the query's
product with the float16 row. An index may be used by several threads, and stays open while others change it: a removal
is seen by the next search, further segments and refreshed facets too, without a restart.

Costs on one core, 768 dimensions: docs/performance.md.
"""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import RECORD, IndexRecord, Reach, SearchIndexError
from dataset.index.collapse import COLLAPSE_AT, distinct
from dataset.index.filter_bits import FilterBits
from dataset.index.filters import ANY, Filter, check_filter
from dataset.index.groups import COLUMNS as GROUP
from dataset.index.mapped import MappedSegment
from dataset.index.numbers import NAMES, unpack_numbers
from dataset.index.opened import State, open_state, stamp_of
from dataset.index.segment_search import NO_GAP

Rows = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.int64]

_EXACT_COUNT_ROWS = 64_000_000
"""Up to so many rows counts are exact: 8 MB of bitmap for each condition."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The results of one query, best first."""

    ids: Integers
    """(n,) int64, n ≤ k."""
    similarities: Rows
    """(n,) float32: cosine of the query and the row."""
    total: int
    """Rows that pass the filter; estimated where counting them takes too long."""
    left_out: Integers
    """(n,) int64: near-duplicates that were left out for each row; 0 where none were to be.

    All others of its group, if the index has groups; otherwise those that the search met.
    """
    groups: Integers
    """(n,) int64: what equal rows of a collapsed list have in common: the representatives, or the rows' own ids."""


@dataclass(frozen=True, slots=True)
class Group:
    """A row's group of near-duplicates; alone in it, if it has none."""

    size: int
    """Rows of the group that are in the index."""
    ids: Integers
    """(n,) int64: those that pass the filter, with the row itself if it does; at most as many as were asked for."""


class Index:
    """An open index; see the head of this module."""

    def __init__(self, folder: Path, record: IndexRecord | None = None) -> None:
        """Open the index in a folder; `record` is one that is not published yet.

        Raises: SearchIndexError.
        """
        self.folder = folder
        self._path = folder / RECORD
        self._fixed = record is not None
        self._lock = threading.Lock()
        self._state = open_state(folder, record)

    @property
    def record(self) -> IndexRecord:
        """The content of index.json."""
        return self._current().record

    def search(
        self,
        queries: Rows,
        k: int,
        *,
        where: Filter | None = None,
        collapse: bool = False,
        probes: int | Reach | None = None,
    ) -> list[Hits]:
        """Return the k nearest rows of each query (n, D) float32; vectors of any length but 0.

        With `collapse`, only the best row of a group of near-duplicates is returned. Where the index has no groups, a
        row whose cosine with a better one is COLLAPSE_AT or more is left out. `probes` is the number of lists to look
        at without a filter; None means as far as the index says, which is further for far queries such as texts.

        Raises: SearchIndexError for another number of dimensions, a query without a direction, or an unknown facet.
        """
        state = self._current()
        wanted = _unit(queries, state.record.dimensions)
        where = where or ANY
        check_filter(where, state.facets)
        bits = state.bits(where)
        total = sum(_total(one, segment) for one, segment in zip(bits, state.segments, strict=True))
        most = sum(segment.rows for segment in state.segments)
        candidates = min(most, 2 * k) if collapse else k
        reach = replace(state.record.near, probes=probes, gap=NO_GAP) if isinstance(probes, int) else probes
        while True:
            found = self._nearest(state, wanted, candidates, bits, reach)
            if not collapse:
                return [
                    Hits(ids[:k], near[:k], total, np.zeros(len(ids[:k]), np.int64), ids[:k]) for ids, near, _ in found
                ]
            kept = [_distinct(state, places, k) for _, _, places in found]
            short = [at for at, one in enumerate(kept) if len(one.rows) < k and len(found[at][0]) >= candidates]
            if not short or candidates >= most:
                return [
                    Hits(
                        ids[one.rows],
                        near[one.rows],
                        total,
                        one.left_out,
                        ids[one.rows] if one.groups is None else one.groups,
                    )
                    for (ids, near, _), one in zip(found, kept, strict=True)
                ]
            candidates = min(most, 4 * candidates)

    def _nearest(
        self, state: State, queries: Rows, k: int, bits: tuple[FilterBits | None, ...], reach: Reach | None
    ) -> list[tuple[Integers, Rows, Integers]]:
        """Return ids, similarities and (segment, position) of the k nearest rows of each query."""
        of_segments = [search.search(queries, k, bit, reach) for search, bit in zip(state.searches, bits, strict=True)]
        found = []
        for query in range(len(queries)):
            near = np.concatenate([one[query][1] for one in of_segments])
            positions = np.concatenate([one[query][0] for one in of_segments])
            segment = np.repeat(np.arange(len(of_segments)), [len(one[query][0]) for one in of_segments])
            order = np.argsort(-near, kind="stable")[:k]
            places = np.stack((segment[order], positions[order]), axis=1)
            found.append((state.ids(places), near[order], places))
        return found

    def rows(
        self, ids: Sequence[int] | Integers, columns: Collection[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """Return the columns of rows by id, `URL` and `TEXT` as url and caption; None for an id that is not there.

        `columns` are those to return besides the id; None means all.

        Raises: SearchIndexError when a file is damaged.
        """
        state = self._current()
        wanted = np.asarray(ids, np.int64).reshape(-1)
        texts = state.record.texts
        numbers = {
            name: kind
            for name, kind in state.record.numbers.items()
            if columns is None or NAMES.get(name, name) in columns
        }
        wants_texts = columns is None or any(NAMES.get(name, name) in columns for name in texts)
        found: list[dict[str, Any] | None] = [None] * len(wanted)
        for one, at, local in state.by_range(state.places(wanted)):
            values: dict[str, Sequence[Any]] = {"id": wanted[at].tolist()}
            if one.frames is not None and wants_texts:
                values |= zip(texts, zip(*one.texts(local.tolist()), strict=True), strict=True)
            if one.numbers is not None and numbers:
                values |= unpack_numbers(one.numbers[local], numbers, state.record.categories)
            if one.groups is not None:
                records = one.groups_at(local)
                values |= {name: records[name].tolist() for name in GROUP if columns is None or name in columns}
            names = [NAMES.get(name, name) for name in values]
            for place, row in zip(at.tolist(), zip(*values.values(), strict=True), strict=True):
                found[place] = dict(zip(names, row, strict=True))
        return found

    @property
    def has_groups(self) -> bool:
        """Whether the groups of near-duplicates are known, from the release's side table `duplicates`."""
        return self._current().has_groups

    def group(self, row: int, where: Filter | None = None, most: int = 10_000) -> Group | None:
        """Return the near-duplicates of a row; None for an id that is not there. Only where `has_groups`.

        Raises: SearchIndexError for an unknown facet.
        """
        state = self._current()
        where = where or ANY
        check_filter(where, state.facets)
        place = state.places([row])
        if place[0, 0] < 0:
            return None
        places = state.members(int(state.groups(place)["representative"][0]))
        places = places if len(places) else place
        size = len(places)
        for at, bits in enumerate(state.bits(where)):
            here = np.flatnonzero(places[:, 0] == at)
            if bits is not None and len(here):
                places = np.delete(places, here[~bits.passes(places[here, 1])], axis=0)
        return Group(size, state.ids(places[:most]))

    def embeddings(self, ids: Sequence[int] | Integers) -> Halves:
        """Return the vectors of rows by id -> (n, D) float16 unit rows; zeros for an id that is not there."""
        state = self._current()
        places = state.places(ids)
        found = np.zeros((len(ids), state.record.dimensions), np.float16)
        known = places[:, 0] >= 0
        found[known] = state.vectors(places[known])
        return found

    def count(self, where: Filter | None = None) -> int:
        """Return how many rows pass a filter; an estimate above 64 million rows.

        Raises: SearchIndexError for an unknown facet.
        """
        state = self._current()
        where = where or ANY
        check_filter(where, state.facets)
        bits = state.bits(where)
        if state.record.rows <= _EXACT_COUNT_ROWS:
            for one in bits:
                if one is not None:
                    one.fill_all()
        return sum(_total(one, segment) for one, segment in zip(bits, state.segments, strict=True))

    def facets(self) -> dict[str, int]:
        """Return the facets with the number of rows that have each, by name."""
        found: dict[str, int] = {}
        for segment in self._current().segments:
            for one in segment.ranges:
                for name, rows in zip(one.facets, one.counts.sum(axis=0, dtype=np.int64).tolist(), strict=True):
                    found[name] = found.get(name, 0) + int(rows)
        return dict(sorted(found.items()))

    def _current(self) -> State:
        """Return the state of index.json as it is now."""
        if self._fixed or stamp_of(self._path) == self._state.stamp:
            return self._state
        with self._lock:
            if stamp_of(self._path) != self._state.stamp:
                self._state = open_state(self.folder, None, self._state)
        return self._state

    def lists_within(self, queries: Rows, reach: Reach | None) -> Integers:
        """Return how many lists a search of each query (n, D) looks at without a filter, as far as reach goes."""
        state = self._current()
        return state.searches[0].lists_within(_unit(queries, state.record.dimensions), reach)

    def nearest_centroids(self, queries: Rows) -> Rows:
        """Return the cosine of each query (n, D) float32 with the nearest centroid -> (n,) float32."""
        state = self._current()
        return state.searches[0].nearest_centroids(_unit(queries, state.record.dimensions))


@dataclass(frozen=True, slots=True)
class _Distinct:
    """Which rows of a list are kept, how many others each stands for, and its group, if groups are known."""

    rows: Integers
    left_out: Integers
    groups: Integers | None


def _distinct(state: State, places: Integers, most: int) -> _Distinct:
    """Keep the best row of each group, at most `most`, in their order."""
    if not state.has_groups:
        return _Distinct(*distinct(state.vectors(places), COLLAPSE_AT, most), None)
    groups = state.groups(places)
    rows = np.sort(np.unique(groups["representative"], return_index=True)[1])[:most]
    return _Distinct(rows, groups["group_size"][rows].astype(np.int64) - 1, groups["representative"][rows])


def open_index(folder: str | Path) -> Index:
    """Open the index in a local folder: `…/index/{model}/{modality}` of a release, or one that was built with --out.

    Raises: SearchIndexError when there is none, it is of another format, or a file is missing or cut off.
    """
    place = Path(folder)
    if not (place / RECORD).is_file():
        raise SearchIndexError(f"There is no index in {place}: build one with `dataset index build`.")
    return Index(place)


def set_threads(threads: int) -> None:
    """Let a search with several queries use so many threads; a server with a thread for each core sets 1."""
    faiss.omp_set_num_threads(threads)


def _total(bits: FilterBits | None, segment: MappedSegment) -> int:
    return segment.rows - segment.removed if bits is None else round(float(bits.counts.sum()))


def _unit(queries: Rows, dimensions: int) -> Rows:
    rows = np.atleast_2d(np.asarray(queries, np.float32))
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise SearchIndexError(
            f"The query has {rows.shape[-1]} dimensions and the index {dimensions}: use the model of the index."
        )
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise SearchIndexError("The query is zero or not finite, so it has no direction.")
    return np.ascontiguousarray(rows / lengths)
