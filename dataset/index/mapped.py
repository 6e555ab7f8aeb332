"""A segment's files mapped into memory: lists for faiss, rows, ids, numbers, texts, bitmaps."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import FRAME_ROWS, IndexFile, IndexRange, IndexRecord, IndexSegment, SearchIndexError
from dataset.index.domains import Domains
from dataset.index.facets import ALIVE
from dataset.index.groups import RECORD as GROUP
from dataset.index.groups import Groups
from dataset.index.kinds import OWN_ROWS, Trained
from dataset.index.numbers import record_type
from dataset.index.texts import Frame, decompress

Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]

_CACHED_FRAMES = 256
"""About 4 MB."""
_READS = 5
"""Of a frame whose checksum is wrong: a removal takes less than a millisecond."""


class MappedRange:
    """One range of lists. `base` is the position of its first row in the segment."""

    def __init__(self, folder: Path, record: IndexRecord, one: IndexRange) -> None:
        """Map the files.

        Raises: SearchIndexError when one is missing or has another size; FileNotFoundError while it is replaced.
        """
        self.base, self.count, self.lists = one.base, one.rows, one.lists
        self.first_list = one.first_list
        self.facets = one.facets
        self._folder, self._record, self._files = folder, record, one.files
        self.ids = self._map("ids", "<i8")
        self.sizes = self._map("sizes", "<u4")
        self.bits: Bits = self._map("bits", "|u1").reshape(len(one.facets), -1)
        self.counts = self._map("facets", "<u4").reshape(one.lists, len(one.facets))
        self.list_path = check_file(folder, one.files["lists"])
        self._starts = np.cumsum(self.sizes, dtype=np.int64) - self.sizes
        if record.kind in OWN_ROWS:
            halves = self._map("lists", "<f2")
            self._windows = np.lib.stride_tricks.sliding_window_view(halves, record.dimensions) if len(halves) else None
        else:
            self._rows = self._map("rows", "<f2").reshape(-1, record.dimensions)
            self._windows = None
        dtype = record_type(record.numbers)
        self.numbers = self._map("numbers", dtype) if "numbers" in one.files else None
        self.frames = self._map("frames", "<u8") if "frames" in one.files else None
        self._texts = self._map("texts", "|u1") if "texts" in one.files else None
        self._domains: Domains | None = None
        known = "groups" in self._files
        self.groups = Groups(self._map("groups", GROUP), self._map("members", "<u4")) if known else None
        self._cache: OrderedDict[int, Frame] = OrderedDict()
        self._lock = threading.Lock()

    def _map(self, role: str, dtype: Any) -> npt.NDArray[Any]:
        file = self._files[role]
        path = check_file(self._folder, file)
        if not file.bytes:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, "r").view(np.ndarray)  # a memmap's own indexing takes microseconds longer

    def vectors(self, local: Integers) -> Halves:
        """Return rows by their places in the range -> (n, D) float16."""
        if self._windows is None:
            found: Halves = self._rows[local]
            return found
        lists = np.searchsorted(self._starts, local, "right") - 1
        copied: Halves = self._windows[local * self._record.dimensions + 4 * self._starts[lists]]
        return copied

    def ids_at(self, local: Integers) -> Integers:
        """Return ids by places in the range -> (n,) int64."""
        return np.asarray(self.ids[local])

    def groups_at(self, local: Integers) -> npt.NDArray[np.void]:
        """Return the groups of near-duplicates by places in the range -> (n,) records; where they are known."""
        assert self.groups is not None
        return np.asarray(self.groups.records[local])

    def texts(self, local: Sequence[int]) -> list[list[str | None]]:
        """Return the texts of rows, row by row.

        Raises: SearchIndexError when a frame is damaged.
        """
        return [self._frame(one // FRAME_ROWS).row(one % FRAME_ROWS) for one in local]

    def _frame(self, at: int) -> Frame:
        with self._lock:
            frame = self._cache.get(at)
            if frame is not None:
                self._cache.move_to_end(at)
                return frame
        frame = Frame(self._read_frame(at), len(self._record.texts))
        with self._lock:
            self._cache[at] = frame
            while len(self._cache) > _CACHED_FRAMES:
                self._cache.popitem(last=False)
        return frame

    def forget_texts(self) -> None:
        """Drop decoded frames: rows were removed."""
        with self._lock:
            self._cache.clear()

    def _read_frame(self, at: int) -> bytes:
        assert self.frames is not None
        assert self._texts is not None
        start, end = int(self.frames[at]), int(self.frames[at + 1])
        for _ in range(_READS):
            try:
                return decompress(self._texts[start:end].tobytes())
            except ValueError as error:
                failed = error
        raise SearchIndexError(
            f"{self._files['texts'].path} is damaged at byte {start} ({failed}): restore it from a copy."
        )

    def alive(self, local: Integers) -> npt.NDArray[np.bool_]:
        """Return which rows were not removed -> (n,) bool."""
        return self.has_facet(ALIVE, local)

    def has_facet(self, facet: str, local: Integers) -> npt.NDArray[np.bool_]:
        """Return which rows have a facet -> (n,) bool."""
        if facet not in self.facets:
            return np.zeros(len(local), bool)
        row = self.bits[self.facets.index(facet)]
        return np.asarray((row[local >> 3] >> (local & 7).astype(np.uint8)) & 1, bool)

    def domain_rows(self, domain: str) -> Integers:
        """Return the places of the rows whose host is a domain or below it."""
        if "domains" not in self._files:
            return np.empty(0, np.int64)
        if self._domains is None:
            self._domains = Domains(self._map("domains", "|u1"))
        return self._domains.rows(domain)


class MappedSegment:
    """A segment, and faiss's index over its lists."""

    def __init__(self, folder: Path, record: IndexRecord, segment: IndexSegment, trained: Trained) -> None:
        """Map all ranges.

        Raises: SearchIndexError when a file is missing or has another size.
        """
        self.name, self.rows, self.removed = segment.name, segment.rows, segment.removed
        self.first_id, self.end_id = segment.first_id, segment.end_id
        self.ranges = [MappedRange(folder, record, one) for one in segment.ranges]
        self.bases = np.array([one.base for one in self.ranges], np.int64)
        self.end = max(one.base + one.count for one in self.ranges)
        path = check_file(folder, segment.positions)
        self._positions: Integers = np.memmap(path, "<i8", "r").view(np.ndarray)
        self.ivf = trained.ivf
        self._lists = [_on_disk_lists(one, trained.code_bytes) for one in self.ranges]
        vector = faiss.InvertedListsPtrVector()
        for lists in self._lists:
            vector.push_back(lists)
        self._vector = vector
        self._all = faiss.VStackInvertedLists(vector.size(), vector.data())
        self.ivf.replace_invlists(self._all, False)
        self.ivf.own_invlists = False
        self.ivf.ntotal = self.end

    def positions(self, ids: Integers) -> Integers:
        """Return the positions of ids, −1 for ids that the segment has not -> (n,) int64."""
        inside = (ids >= self.first_id) & (ids < self.end_id)
        found = np.full(len(ids), -1, np.int64)
        found[inside] = self._positions[ids[inside] - self.first_id]
        return found

    def split(self, positions: Integers) -> tuple[Integers, Integers]:
        """Return the range of each position, and its place there."""
        at = np.searchsorted(self.bases, positions, "right") - 1
        return at, positions - self.bases[at]

    def gather(self, positions: Integers, read: str, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Fill `out` with what `read` of each range returns for rows: `vectors`, `alive`, `ids_at` or `groups_at`."""
        if len(self.ranges) == 1:
            out[:] = getattr(self.ranges[0], read)(positions)
            return out
        at, local = self.split(positions)
        for one in np.unique(at).tolist():
            here = at == one
            out[here] = getattr(self.ranges[one], read)(local[here])
        return out

    def vectors(self, positions: Integers, dimensions: int) -> Halves:
        """Return rows -> (n, D) float16."""
        return self.gather(positions, "vectors", np.empty((len(positions), dimensions), np.float16))

    def alive(self, positions: Integers) -> npt.NDArray[np.bool_]:
        """Return which rows were not removed -> (n,) bool."""
        return self.gather(positions, "alive", np.empty(len(positions), bool))

    def ids(self, positions: Integers) -> Integers:
        """Return the ids of rows -> (n,) int64."""
        return self.gather(positions, "ids_at", np.empty(len(positions), np.int64))


def _on_disk_lists(one: MappedRange, code_bytes: int) -> Any:
    """Return faiss's view of a range's lists, which maps the file."""
    lists = faiss.OnDiskInvertedLists(one.lists, code_bytes, str(one.list_path))
    sizes = np.ascontiguousarray(one.sizes, np.uint64)
    lists.set_all_lists_sizes(faiss.swig_ptr(sizes))
    lists.totsize = one.list_path.stat().st_size
    lists.read_only = True
    lists.prefetch_nthread = 0  # its threads made warm searches three times slower
    if lists.totsize:
        lists.do_mmap()
    return lists


def check_file(folder: Path, file: IndexFile) -> Path:
    """Return the path of a file of the record.

    Raises: SearchIndexError when it is missing or has another size.
    """
    path = folder / file.path
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{path} is missing: copy the whole folder of the index again, or build it again."
        ) from error
    if size != file.bytes:
        raise SearchIndexError(
            f"{path} has {size} bytes, not {file.bytes}: copy the whole folder of the index again, or build it again."
        )
    return path


class MissingFileError(SearchIndexError):
    """A file that the record lists is missing; it may have been replaced since the record was read."""
