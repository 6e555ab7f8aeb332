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
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import RECORD, IndexRecord, IndexSegment, SearchIndexError, parse_index_record
from dataset.index.collapse import COLLAPSE_AT, distinct
from dataset.index.filter_bits import FilterBits
from dataset.index.filters import Filter, check_filter
from dataset.index.kinds import OWN_ROWS, Trained, read_trained
from dataset.index.mapped import MappedSegment, MissingFileError, check_file
from dataset.index.numbers import NAMES, unpack_numbers
from dataset.index.segment_search import SegmentSearch

Rows = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.int64]

_RERANKED, _RERANKED_OF_MANY = 10, 2
"""Candidates per result of kinds whose codes are not the rows: of the first hundred results, and of thousands."""
_CACHED_FILTERS = 64
_CACHED_BYTES = 1 << 30
_OPENINGS = 5
"""Tries to open an index whose files are being replaced."""
_EXACT_COUNT_ROWS = 64_000_000
"""Up to so many rows counts are exact: 8 MB of bitmap for each condition."""

ANY = Filter()


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
    """(n,) int64: near-duplicates that were found and left out for each row; 0 where none were to be."""


@dataclass(frozen=True, slots=True)
class _State:
    """What one state of index.json names, mapped."""

    record: IndexRecord
    stamp: tuple[int, int, int]
    trained: Trained
    segments: tuple[MappedSegment, ...]
    searches: tuple[SegmentSearch, ...]
    filters: "OrderedDict[Filter, tuple[FilterBits | None, ...]]"


class Index:
    """An open index; see the head of this module."""

    def __init__(self, folder: Path, record: IndexRecord | None = None) -> None:
        """Open the index in a folder; `record` is one that is not published yet.

        Raises: SearchIndexError.
        """
        self.folder = folder
        self._fixed = record is not None
        self._lock = threading.Lock()
        self._state = self._open(record)

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
        probes: int | None = None,
    ) -> list[Hits]:
        """Return the k nearest rows of each query (n, D) float32; vectors of any length but 0.

        With `collapse`, a row whose cosine with a better one is COLLAPSE_AT or more is left out. `probes` is the number
        of lists to look at without a filter; None means the index's own, more for far queries such as texts.

        Raises: SearchIndexError for another number of dimensions, a query without a direction, or an unknown facet.
        """
        state = self._current()
        wanted = _unit(queries, state.record.dimensions)
        where = where or ANY
        check_filter(where, self._known_facets(state))
        bits = self._bits(state, where)
        total = sum(_total(one, segment) for one, segment in zip(bits, state.segments, strict=True))
        most = sum(segment.rows for segment in state.segments)
        candidates = min(most, 2 * k) if collapse else k
        while True:
            found = self._nearest(state, wanted, candidates, bits, probes)
            if not collapse:
                return [Hits(ids[:k], near[:k], total, np.zeros(len(ids[:k]), np.int64)) for ids, near, _ in found]
            kept = [distinct(self._vectors(state, places), COLLAPSE_AT, k) for _, _, places in found]
            short = [at for at, (one, _) in enumerate(kept) if len(one) < k and len(found[at][0]) >= candidates]
            if not short or candidates >= most:
                return [
                    Hits(ids[at], near[at], total, left_out)
                    for (ids, near, _), (at, left_out) in zip(found, kept, strict=True)
                ]
            candidates = min(most, 4 * candidates)

    def _nearest(
        self, state: _State, queries: Rows, k: int, bits: tuple[FilterBits | None, ...], probes: int | None
    ) -> list[tuple[Integers, Rows, Integers]]:
        """Return ids, similarities and (segment, position) of the k nearest rows of each query."""
        rows = k if state.record.kind in OWN_ROWS else max(_RERANKED * min(k, 100), _RERANKED_OF_MANY * k)
        of_segments = [
            search.search(queries, k, rows, bit, probes) for search, bit in zip(state.searches, bits, strict=True)
        ]
        found = []
        for query in range(len(queries)):
            near = np.concatenate([one[query][1] for one in of_segments])
            positions = np.concatenate([one[query][0] for one in of_segments])
            segment = np.repeat(np.arange(len(of_segments)), [len(one[query][0]) for one in of_segments])
            order = np.argsort(-near, kind="stable")[:k]
            places = np.stack((segment[order], positions[order]), axis=1)
            found.append((self._ids(state, places), near[order], places))
        return found

    def rows(
        self, ids: Sequence[int] | Integers, columns: Collection[str] | None = None
    ) -> list[dict[str, Any] | None]:
        """Return the columns of rows by id, `URL` and `TEXT` as url and caption; None for an id that is not there.

        `columns` are those to return besides the id; None means all. A row of a release has about 15, and reading
        them takes 30 µs.

        Raises: SearchIndexError when a file is damaged.
        """
        state = self._current()
        texts = state.record.texts
        numbers = {
            name: kind
            for name, kind in state.record.numbers.items()
            if columns is None or NAMES.get(name, name) in columns
        }
        wants_texts = columns is None or any(NAMES.get(name, name) in columns for name in texts)
        found: list[dict[str, Any] | None] = [None] * len(ids)
        places = self._places(state, ids)
        ranges, local = self._split(state, places)
        for at, (segment, of, row) in enumerate(zip(places[:, 0].tolist(), ranges, local, strict=True)):
            if segment < 0:
                continue
            one = state.segments[segment].ranges[of]
            values: dict[str, Any] = {"id": int(ids[at])}
            if one.frames is not None and wants_texts:
                values |= dict(zip(texts, one.texts(row), strict=True))
            if one.numbers is not None and numbers:
                values |= unpack_numbers(one.numbers[row], numbers, state.record.categories)
            found[at] = {NAMES.get(name, name): value for name, value in values.items()}
        return found

    def embeddings(self, ids: Sequence[int] | Integers) -> Halves:
        """Return the vectors of rows by id -> (n, D) float16 unit rows; zeros for an id that is not there."""
        state = self._current()
        places = self._places(state, ids)
        found = np.zeros((len(ids), state.record.dimensions), np.float16)
        known = places[:, 0] >= 0
        found[known] = self._vectors(state, places[known])
        return found

    def count(self, where: Filter | None = None) -> int:
        """Return how many rows pass a filter; an estimate above 64 million rows.

        Raises: SearchIndexError for an unknown facet.
        """
        state = self._current()
        where = where or ANY
        check_filter(where, self._known_facets(state))
        bits = self._bits(state, where)
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

    def _current(self) -> _State:
        """Return the state of index.json as it is now."""
        if self._fixed or _stamp(self.folder) == self._state.stamp:
            return self._state
        with self._lock:
            if _stamp(self.folder) != self._state.stamp:
                self._state = self._open(None, self._state)
        return self._state

    def _open(self, record: IndexRecord | None, before: _State | None = None) -> _State:
        for _ in range(_OPENINGS):
            stamp = _stamp(self.folder) if record is None else (0, 0, 0)
            try:
                read = record or parse_index_record((self.folder / RECORD).read_bytes(), str(self.folder / RECORD))
                return self._map(read, stamp, before)
            except MissingFileError as error:
                missing = error
                if record is not None or _stamp(self.folder) == stamp:
                    raise
        raise missing

    def _map(self, record: IndexRecord, stamp: tuple[int, int, int], before: _State | None) -> _State:
        """Map the files of a record; segments that stay as they were are kept."""
        same = before is not None and before.record.trained == record.trained
        path = check_file(self.folder, record.trained)
        trained = before.trained if before is not None and same else read_trained(path, record.kind)
        known = {one.name: one for one in before.segments} if before is not None and same else {}
        files = {one.name: _layout(one) for one in before.record.segments} if before is not None else {}
        segments = []
        for at, segment in enumerate(record.segments):
            old = known.get(segment.name)
            if old is not None and files[segment.name] == _layout(segment):
                old.removed = segment.removed
                for one in old.ranges:
                    one.forget_texts()
                segments.append(old)
            else:
                own = trained if at == 0 and not known else _sharing_quantizer(read_trained(path, record.kind), trained)
                segments.append(MappedSegment(self.folder, record, segment, own))
        searches = tuple(SegmentSearch(one, trained, record) for one in segments)
        return _State(record, stamp, trained, tuple(segments), searches, OrderedDict())

    def nearest_centroids(self, queries: Rows) -> Rows:
        """Return the cosine of each query (n, D) float32 with the nearest centroid -> (n,) float32."""
        state = self._current()
        return state.searches[0].nearest_centroids(_unit(queries, state.record.dimensions))

    def _known_facets(self, state: _State) -> set[str]:
        return {name for segment in state.segments for one in segment.ranges for name in one.facets}

    def _bits(self, state: _State, where: Filter) -> tuple[FilterBits | None, ...]:
        """Return the bitmaps of a filter, None for segments of which all rows pass."""
        with self._lock:
            known = state.filters.get(where)
            if known is None:
                known = tuple(
                    None if where == ANY and not segment.removed else FilterBits(segment, where)
                    for segment in state.segments
                )
                state.filters[where] = known
            state.filters.move_to_end(where)
            while len(state.filters) > 1 and (
                len(state.filters) > _CACHED_FILTERS
                or sum(one.filled_bytes for some in state.filters.values() for one in some if one is not None)
                > _CACHED_BYTES
            ):
                state.filters.popitem(last=False)
        return known

    def _places(self, state: _State, ids: Sequence[int] | Integers) -> Integers:
        """Return (segment, position) of ids, −1 twice for ids that are not there or were removed -> (n, 2) int64."""
        wanted = np.asarray(ids, np.int64).reshape(-1)
        places = np.full((len(wanted), 2), -1, np.int64)
        for at, segment in enumerate(state.segments):
            positions = segment.positions(wanted)
            here = np.flatnonzero(positions >= 0)
            here = here[segment.alive(positions[here])]
            places[here, 0], places[here, 1] = at, positions[here]
        return places

    def _split(self, state: _State, places: Integers) -> tuple[list[int], list[int]]:
        """Return the range and the row in it of (n, 2) places; −1 twice where there is none."""
        found = np.full((len(places), 2), -1, np.int64)
        for at in np.unique(places[places[:, 0] >= 0, 0]).tolist():
            here = places[:, 0] == at
            found[here, 0], found[here, 1] = state.segments[at].split(places[here, 1])
        return found[:, 0].tolist(), found[:, 1].tolist()

    def _vectors(self, state: _State, places: Integers) -> Halves:
        found = np.empty((len(places), state.record.dimensions), np.float16)
        for at in np.unique(places[:, 0]).tolist():
            here = places[:, 0] == at
            found[here] = state.segments[at].vectors(places[here, 1], state.record.dimensions)
        return found

    def _ids(self, state: _State, places: Integers) -> Integers:
        found = np.empty(len(places), np.int64)
        for at in np.unique(places[:, 0]).tolist():
            here = places[:, 0] == at
            found[here] = state.segments[at].ids(places[here, 1])
        return found


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


def _stamp(folder: Path) -> tuple[int, int, int]:
    found = (folder / RECORD).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _layout(segment: IndexSegment) -> tuple[object, ...]:
    """Return what stays equal as long as a segment is only changed in place."""
    paths = [file.path for one in segment.ranges for file in one.files.values()]
    return (*paths, segment.positions, *(one.files["ids"] for one in segment.ranges))


def _cached_bytes(bits: tuple[FilterBits | None, ...]) -> int:
    return sum(one.filled_bytes for one in bits if one is not None)


def _total(bits: FilterBits | None, segment: MappedSegment) -> int:
    return segment.rows - segment.removed if bits is None else round(float(bits.counts.sum()))


def _unit(queries: Rows, dimensions: int) -> Rows:
    rows = np.atleast_2d(np.asarray(queries, np.float32))
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise SearchIndexError(
            f"The query has {rows.shape[-1]} dimensions and the index {dimensions}: use the model of the index."
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise SearchIndexError("The query is zero or not finite, so it has no direction.")
    return np.ascontiguousarray(rows / lengths)


def _sharing_quantizer(trained: Trained, first: Trained) -> Trained:
    """Return a trained index that uses the centroids of the first: those of a million lists are 3.2 GB."""
    faiss.downcast_index(trained.ivf.quantizer).reset()
    trained.ivf.own_fields = False
    trained.ivf.quantizer = first.ivf.quantizer
    return trained
