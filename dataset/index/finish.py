"""Finish: the positions of all ids, the record, and then the end of the work's files.

Recall is measured on the index as it is about to be published: its own files, mapped. Where the store is no folder,
nothing can be mapped, and the record says nothing about recall.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import FORMAT, RECORD, IndexFile, IndexRecord, IndexSegment, Reach, RecallRow
from dataset.formats.json_records import to_json
from dataset.formats.release_parquet import HashedFile
from dataset.formats.releases import require_live
from dataset.formats.steps import UnitFile, UnitResult
from dataset.index.merge import MergedRange
from dataset.index.numbers import layout
from dataset.index.plan import Work, read_existing
from dataset.index.segment_search import NO_GAP
from dataset.index.sources import ReleaseSource
from dataset.store.lock import locked

BLOCK_IDS = 1 << 24
"""Ids whose positions are in memory at a time: 128 MB."""
_START_PROBES, _START_RERANKED = 128, 80
"""Enough for texts among a million rows."""
NEVER_FAR = -2.0
"""Less than any cosine."""


def write_segment(work: Work, merged: Sequence[MergedRange]) -> IndexSegment:
    """Write the positions of all ids, and return the segment.

    Raises: StoreError.
    """
    plan = work.plan
    ranges = [one.files for one in merged]
    readers = [_ById(work, at, one.rows) for at, one in enumerate(ranges)]
    filled = [reader for reader in readers if reader.rows]
    first, end = min(one.first for one in filled), max(one.last for one in filled) + 1
    path = f"{plan.segment}/positions.i64"
    with work.store.write(work.output(path)) as file:
        hashed = HashedFile(file)
        for start in range(first, end, BLOCK_IDS):
            stop = min(end, start + BLOCK_IDS)
            block = np.full(stop - start, -1, "<i8")
            for reader in filled:
                ids, positions = reader.below(stop)
                block[ids - start] = positions
            hashed.write(block.tobytes())
    return IndexSegment(
        name=plan.segment,
        batches=plan.batches,
        rows=sum(one.rows for one in ranges),
        removed=sum(one.rows for one in ranges) - sum(one.described for one in merged),
        first_id=first,
        end_id=end,
        positions=IndexFile(path=path, bytes=hashed.bytes, sha256=hashed.sha256),
        ranges=tuple(ranges),
    )


class _ById:
    """The ids of a range with their positions, read in order."""

    def __init__(self, work: Work, at: int, rows: int) -> None:
        self._store, self._path, self.rows = work.store, work.path(f"merge/{at:06d}.by_id"), rows
        self._done = 0
        if rows:
            self.first, self.last = int(self._read(0, 1)[0]), int(self._read(rows - 1, rows)[0])

    def below(self, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the ids below `stop` that were not returned yet, and their positions."""
        low, high = self._done, self.rows
        while low < high:
            middle = (low + high) // 2
            if int(self._read(middle, middle + 1)[0]) < stop:
                low = middle + 1
            else:
                high = middle
        start, self._done = self._done, low
        return self._read(start, low), self._read(self.rows + start, self.rows + low)

    def _read(self, start: int, end: int) -> npt.NDArray[np.int64]:
        with self._store.open_input(self._path) as file:
            file.seek(start * 8)
            return np.frombuffer(file.read_buffer((end - start) * 8), "<i8")


def make_record(
    work: Work, segment: IndexSegment, files: Sequence[IndexFile], reach: Reach, recall: Sequence[RecallRow]
) -> IndexRecord:
    """Return the record with the new segment; `files` are those of the generation."""
    plan = work.plan
    existing = read_existing(work) if plan.options.keeps_lists else None
    numbers, texts = layout(work.source.schema, work.source.categories)
    return IndexRecord(
        format=FORMAT,
        name=plan.name,
        version=plan.version,
        model=plan.model,
        modality=plan.options.modality,
        kind=plan.kind,
        dimensions=plan.dimensions,
        lists=plan.lists,
        generation=plan.generation,
        seed=plan.options.seed,
        near=existing.near if existing else reach,
        far=existing.far if existing else reach,
        far_below=existing.far_below if existing else NEVER_FAR,
        trained=existing.trained if existing else files[0],
        held_out=existing.held_out if existing else files[1],
        numbers=numbers,
        texts=texts,
        categories={name: values for name, values in work.source.categories.items() if name in numbers},
        segments=(*(existing.segments if existing and plan.options.further else ()), segment),
        recall=existing.recall if existing else tuple(recall),
    )


def result_of(work: Work, record: IndexRecord) -> UnitResult:
    """Return what the build wrote."""
    segment = record.segments[-1]
    found = [record.trained, record.held_out, segment.positions]
    found += [file for one in segment.ranges for file in one.files.values()]
    files = tuple(UnitFile(f"{work.output(file.path)}", segment.rows, file.bytes) for file in found)
    return UnitResult(segment.rows, record.rows, files)


def put_record(work: Work, record: IndexRecord) -> None:
    """Replace index.json: from now on readers see the segment.

    Raises: ReleaseError when rows were removed from the release while this was built.
    """
    if not isinstance(work.source, ReleaseSource):
        work.store.put(work.output(RECORD), to_json(record))
        return
    release = work.source.release
    with locked(release.store, release.folder):
        require_live(release, work.plan.version)
        work.store.put(work.output(RECORD), to_json(record))


def start_reach(work: Work) -> Reach:
    """Return how far searches of an index look whose recall is not known."""
    return Reach(probes=min(work.plan.lists, _START_PROBES), gap=NO_GAP, reranked=_START_RERANKED)
