"""One state of an index: what its index.json names, mapped, with rows by id and by place.

A place is (segment, position). Readers keep the state with which they began; `open_state` maps the next one, and keeps
the segments that stay as they were.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import RECORD, IndexRecord, IndexSegment, parse_index_record
from dataset.index.filter_bits import FilterBits
from dataset.index.filters import ANY, Filter
from dataset.index.groups import RECORD as GROUP
from dataset.index.kinds import Trained, read_trained
from dataset.index.mapped import MappedRange, MappedSegment, MissingFileError, check_file
from dataset.index.segment_search import SegmentSearch

Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.int64]

Stamp = tuple[int, int, int]

_CACHED_FILTERS = 64
_CACHED_BYTES = 1 << 30
_OPENINGS = 5
"""Tries to open an index whose files are being replaced."""


@dataclass(frozen=True, slots=True)
class State:
    """An opened state of an index."""

    record: IndexRecord
    stamp: Stamp
    trained: Trained
    segments: tuple[MappedSegment, ...]
    searches: tuple[SegmentSearch, ...]
    facets: frozenset[str]
    """Those that a row can have."""
    has_groups: bool
    """Whether the near-duplicates of all rows are known."""
    _filters: "OrderedDict[Filter, tuple[FilterBits | None, ...]]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bits(self, where: Filter) -> tuple[FilterBits | None, ...]:
        """Return the bitmaps of a filter by segment, None for segments of which all rows pass."""
        with self._lock:
            known = self._filters.get(where)
            if known is None:
                known = tuple(
                    None if where == ANY and not segment.removed else FilterBits(segment, where)
                    for segment in self.segments
                )
                self._filters[where] = known
            self._filters.move_to_end(where)
            while len(self._filters) > 1 and (
                len(self._filters) > _CACHED_FILTERS
                or sum(one.filled_bytes for some in self._filters.values() for one in some if one is not None)
                > _CACHED_BYTES
            ):
                self._filters.popitem(last=False)
        return known

    def places(self, ids: Sequence[int] | Integers) -> Integers:
        """Return the places of ids, −1 twice for ids that are not there or were removed -> (n, 2) int64."""
        wanted = np.asarray(ids, np.int64).reshape(-1)
        places = np.full((len(wanted), 2), -1, np.int64)
        for at, segment in enumerate(self.segments):
            positions = segment.positions(wanted)
            here = np.flatnonzero(positions >= 0)
            here = here[segment.alive(positions[here])]
            places[here, 0], places[here, 1] = at, positions[here]
        return places

    def by_range(self, places: Integers) -> Iterator[tuple[MappedRange, Integers, Integers]]:
        """Yield each range that some of the places (n, 2) are in, with two arrays of equal length m.

        The first has the indexes of these places, the second the rows in the range, counted from its first row. Places
        of -1 are in no range.
        """
        for segment in np.unique(places[places[:, 0] >= 0, 0]).tolist():
            of_segment = np.flatnonzero(places[:, 0] == segment)
            ranges, local = self.segments[segment].split(places[of_segment, 1])
            for one in np.unique(ranges).tolist():
                here = ranges == one
                yield self.segments[segment].ranges[one], of_segment[here], local[here]

    def vectors(self, places: Integers) -> Halves:
        """Return the rows at places -> (n, D) float16."""
        return self._gather(places, "vectors", np.empty((len(places), self.record.dimensions), np.float16))

    def ids(self, places: Integers) -> Integers:
        """Return the ids at places -> (n,) int64."""
        return self._gather(places, "ids_at", np.empty(len(places), np.int64))

    def groups(self, places: Integers) -> npt.NDArray[np.void]:
        """Return the groups of near-duplicates of rows at places -> (n,) records; where `has_groups`."""
        return self._gather(places, "groups_at", np.empty(len(places), GROUP))

    def _gather(self, places: Integers, read: str, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if len(self.segments) == 1:
            return self.segments[0].gather(places[:, 1], read, out)
        for at in np.unique(places[:, 0]).tolist():
            here = places[:, 0] == at
            positions = places[here, 1]
            out[here] = self.segments[at].gather(positions, read, np.empty((len(positions), *out.shape[1:]), out.dtype))
        return out

    def members(self, representative: int) -> Integers:
        """Return the places of a group's rows that were not removed, by segment and range -> (n, 2) int64."""
        found = [np.empty((0, 2), np.int64)]
        for at, segment in enumerate(self.segments):
            for one in segment.ranges:
                assert one.groups is not None
                local = one.groups.members(representative)
                local = local[one.alive(local)]
                found.append(np.stack((np.full(len(local), at), local + one.base), axis=1))
        return np.concatenate(found)


def open_state(folder: Path, record: IndexRecord | None, before: State | None = None) -> State:
    """Open the published state of the index in a folder, or that of a record which is not published yet.

    Raises: SearchIndexError.
    """
    path = folder / RECORD
    for _ in range(_OPENINGS):
        stamp = stamp_of(path) if record is None else (0, 0, 0)
        try:
            read = record or parse_index_record(path.read_bytes(), str(path))
            return _map(folder, read, stamp, before)
        except MissingFileError as error:
            missing = error
            if record is not None or stamp_of(path) == stamp:
                raise
    raise missing


def stamp_of(record: Path) -> Stamp:
    """Return what changes with index.json, by its path."""
    found = record.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _map(folder: Path, record: IndexRecord, stamp: Stamp, before: State | None) -> State:
    """Map the files of a record; segments that stay as they were are kept."""
    same = before is not None and before.record.trained == record.trained
    path = check_file(folder, record.trained)
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
            segments.append(MappedSegment(folder, record, segment, own))
    searches = tuple(SegmentSearch(one, trained, record) for one in segments)
    ranges = [one for segment in segments for one in segment.ranges]
    facets = frozenset(name for one in ranges for name in one.facets)
    has_groups = all(one.groups is not None for one in ranges)
    return State(record, stamp, trained, tuple(segments), searches, facets, has_groups)


def _layout(segment: IndexSegment) -> tuple[object, ...]:
    """Return what stays equal as long as a segment is only changed in place."""
    paths = [file.path for one in segment.ranges for file in one.files.values()]
    return (*paths, segment.positions, *(one.files["ids"] for one in segment.ranges))


def _sharing_quantizer(trained: Trained, first: Trained) -> Trained:
    """Return a trained index that uses the centroids of the first: those of a million lists are 3.2 GB."""
    faiss.downcast_index(trained.ivf.quantizer).reset()
    trained.ivf.own_fields = False
    trained.ivf.quantizer = first.ivf.quantizer
    return trained
