"""Remove rows from an index that is in use.

1. The ids are written to `removing.json`: a removal that is killed is completed by the next one.
2. The rows' bits are cleared in every bitmap: the next search does not find them.
3. Codes, float16 rows and numbers become zeros, texts are taken out of their frames, the rows out of the domains, the
   counts of facets; held-out queries that were made of them become zeros. Ids, positions and representatives stay, so
   that a removal that is repeated finds the rows and their groups. Groups that lose rows get their new sizes.
4. The files that were changed get the names of the release's new version (`dataset.formats.versions`): a unit of the
   build that comes back late writes under the old ones.
5. index.json gets the new names and checksums, and the old names are deleted.

In a folder the bytes are changed in place, so that readers that have mapped the files see it at once. In an object
store each file is replaced.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset import strict_json
from dataset.formats.index_files import (
    FRAME_ROWS,
    RECORD,
    IndexFile,
    IndexRange,
    IndexRecord,
    IndexSegment,
    SearchIndexError,
    read_index_record,
)
from dataset.formats.json_records import to_json
from dataset.formats.versions import in_version
from dataset.index.domains import Domains
from dataset.index.facets import ALIVE, count_by_list
from dataset.index.groups import RECORD as GROUP
from dataset.index.groups import ROLES as GROUP_ROLES
from dataset.index.groups import Groups
from dataset.index.kinds import OWN_ROWS
from dataset.index.numbers import record_type
from dataset.index.removed import mapped, path_in
from dataset.index.texts import blanked
from dataset.index.train import HeldOut
from dataset.store.lock import locked
from dataset.store.store import Store

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

JOURNAL = "removing.json"
_HASHED_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal changed: rows that were in the index, and the new paths of files in the store."""

    rows: int
    files: tuple[str, ...]


def delete_ids(store: Store, folder: str, ids: Sequence[int] | Integers, version: str = "") -> Removed:
    """Remove rows by id from the index in a folder of a store; ids that it does not have are no error.

    `version` is the release's that does not have the rows; without one, files keep their names.

    Raises: SearchIndexError when there is no index, or it is damaged; StoreError.
    """
    with locked(store, folder):
        record = read_index_record(store, folder)
        journal = path_in(folder, JOURNAL)
        wanted = set(np.asarray(ids, np.int64).tolist())
        if store.exists(journal):
            wanted |= set(json.loads(store.read(journal)))
        if not wanted:
            return Removed(0, ())
        store.put(journal, strict_json.dumps(sorted(wanted)).encode())
        removal = _Removal(store, folder, record, np.array(sorted(wanted), np.int64), version)
        removed = removal.run()
        store.delete(journal)
    return removed


def remove_unpublished(store: Store, folder: str, record: IndexRecord, ids: Integers) -> IndexRecord:
    """Remove rows from the files of a record that is not published yet, and return it with their checksums."""
    return _Removal(store, folder, record, ids).change()[1] if len(ids) else record


@dataclass
class _Removal:
    """A removal under way; `changed` has the files of the record that were edited, '' for checksums not yet taken."""

    store: Store
    folder: str
    record: IndexRecord
    ids: Integers
    version: str = ""
    changed: dict[str, IndexFile] = field(default_factory=dict)

    def run(self) -> Removed:
        """Change the files and the published record."""
        rows, renewed = self.change()
        if renewed != self.record:
            self.store.put(path_in(self.folder, RECORD), to_json(renewed))
        paths = sorted(file.path for file in self.changed.values())
        for path in set(self.changed).difference(paths):
            self.store.delete(path_in(self.folder, path))
        return Removed(rows, tuple(path_in(self.folder, path) for path in paths))

    def change(self) -> tuple[int, IndexRecord]:
        """Change the files; return how many rows the index had of the ids, and the record with the new entries."""
        located = [(segment, self._positions(segment)) for segment in self.record.segments]
        touched = [
            (one, local) for segment, positions in located for one, local in _by_range(segment, positions)
        ]  # fmt: skip
        for one, local in touched:
            self._clear_bits(one, local)
        self._recount(touched)
        for one, local in touched:
            self._blank(one, local)
        self._forget_queries()
        for path, file in list(self.changed.items()):
            self.changed[path] = self._renamed(file if file.sha256 else self._hashed(path))
        segments = tuple(self._renewed(segment) for segment in self.record.segments)
        renewed = replace(self.record, segments=segments, held_out=self._entry(self.record.held_out))
        return sum(len(positions) for _, positions in located), renewed

    def _positions(self, segment: IndexSegment) -> Integers:
        """Return the positions of the ids that the segment has."""
        inside = self.ids[(self.ids >= segment.first_id) & (self.ids < segment.end_id)]
        found = []
        with self.store.open_input(path_in(self.folder, segment.positions.path)) as file:
            for one in inside.tolist():
                file.seek((one - segment.first_id) * 8)
                found.append(int(np.frombuffer(file.read(8), "<i8")[0]))
        positions = np.array(found, np.int64)
        return np.sort(positions[positions >= 0])

    def _clear_bits(self, one: IndexRange, local: Integers) -> None:
        with self._edited(one.files["bits"]) as data:
            bits = data.reshape(len(one.facets), -1)
            masks = ~(np.uint8(1) << (local & 7).astype(np.uint8))
            for row in bits:
                np.bitwise_and.at(row, local >> 3, masks)

    def _recount(self, touched: Sequence[tuple[IndexRange, Integers]]) -> None:
        """Write the sizes of the groups that lose rows: the numbers of rows that they keep."""
        wanted: set[int] = set()
        for one, local in touched:
            if "groups" in one.files:
                wanted |= set(self._groups(one).records["representative"][local].tolist())
        if not wanted:
            return
        ranges = [one for segment in self.record.segments for one in segment.ranges if "groups" in one.files]
        members: list[tuple[IndexRange, int, Integers]] = []
        sizes = Counter[int]()
        for one in ranges:
            groups = self._groups(one)
            alive = mapped(self.store, path_in(self.folder, one.files["bits"].path)).reshape(len(one.facets), -1)
            for representative in wanted:
                local = groups.members(representative)
                if len(local):
                    members.append((one, representative, local))
                    row = alive[one.facets.index(ALIVE)]
                    sizes[representative] += int(((row[local >> 3] >> (local & 7).astype(np.uint8)) & 1).sum())
        for one in ranges:
            mine = [(representative, local) for of, representative, local in members if of is one]
            if mine:
                with self._edited(one.files["groups"]) as data:
                    records = data.view(GROUP)
                    for representative, local in mine:
                        records["group_size"][local] = sizes[representative]

    def _groups(self, one: IndexRange) -> Groups:
        records, members = (mapped(self.store, path_in(self.folder, one.files[role].path)) for role in GROUP_ROLES)
        return Groups(records.view(GROUP), members.view("<u4"))

    def _blank(self, one: IndexRange, local: Integers) -> None:
        record, dimensions = self.record, self.record.dimensions
        sizes = np.frombuffer(self.store.read(path_in(self.folder, one.files["sizes"].path)), "<u4")
        starts = np.cumsum(sizes, dtype=np.int64) - sizes
        code = one.files["lists"].bytes // max(1, one.rows) - 8
        assert code * one.rows + 8 * one.rows == one.files["lists"].bytes
        before = starts[np.searchsorted(starts, local, "right") - 1]
        with self._edited(one.files["lists"]) as data:
            for at in (local * code + 8 * before).tolist():
                data[at : at + code] = 0
        if record.kind not in OWN_ROWS:
            with self._edited(one.files["rows"]) as data:
                data.reshape(one.rows, 2 * dimensions)[local] = 0
        if "numbers" in one.files:
            with self._edited(one.files["numbers"]) as data:
                data.reshape(one.rows, record_type(record.numbers).itemsize)[local] = 0
        if "domains" in one.files:
            with self._edited(one.files["domains"]) as data:
                Domains(data).remove(local)
        if "texts" in one.files:
            self._blank_texts(one, local)
        with self._edited(one.files["bits"]) as bits, self._edited(one.files["facets"]) as counts:
            masks = {
                name: np.unpackbits(row, count=one.rows, bitorder="little").view(np.bool_)
                for name, row in zip(one.facets, bits.reshape(len(one.facets), -1), strict=True)
            }
            counts[:] = count_by_list(masks, sizes).reshape(-1).view(np.uint8)

    def _blank_texts(self, one: IndexRange, local: Integers) -> None:
        frames = np.frombuffer(self.store.read(path_in(self.folder, one.files["frames"].path)), "<u8").astype(np.int64)
        with self._edited(one.files["texts"]) as data:
            for at in np.unique(local // FRAME_ROWS).tolist():
                rows = (local[local // FRAME_ROWS == at] % FRAME_ROWS).tolist()
                start, end = int(frames[at]), int(frames[at + 1])
                try:
                    frame = blanked(data[start:end].tobytes(), len(self.record.texts), rows)
                except ValueError as error:
                    raise SearchIndexError(
                        f"{one.files['texts'].path} is damaged at byte {start} ({error}): restore it from a copy, and "
                        "remove the rows again."
                    ) from error
                data[start:end] = np.frombuffer(frame, np.uint8)

    def _forget_queries(self) -> None:
        path = path_in(self.folder, self.record.held_out.path)
        held_out = HeldOut.from_bytes(self.store.read(path))
        gone = np.isin(held_out.ids, self.ids)
        if gone.any():
            for rows in (held_out.images, held_out.texts):
                if len(rows):
                    rows[gone] = 0
            data = held_out.to_bytes()
            self.store.put(path, data)
            digest = hashlib.sha256(data).hexdigest()
            self.changed[self.record.held_out.path] = replace(self.record.held_out, bytes=len(data), sha256=digest)

    def _renewed(self, segment: IndexSegment) -> IndexSegment:
        ranges = tuple(
            replace(one, files={role: self._entry(file) for role, file in one.files.items()}) for one in segment.ranges
        )
        alive = 0
        for one in ranges:
            data = np.frombuffer(self.store.read(path_in(self.folder, one.files["facets"].path)), "<u4")
            alive += int(data.reshape(one.lists, -1)[:, one.facets.index(ALIVE)].sum(dtype=np.int64))
        return replace(segment, ranges=ranges, removed=segment.rows - alive)

    def _entry(self, file: IndexFile) -> IndexFile:
        return self.changed.get(file.path, file)

    def _renamed(self, file: IndexFile) -> IndexFile:
        path = in_version(file.path, self.version) if self.version else file.path
        if path != file.path:
            self.store.copy(path_in(self.folder, file.path), path_in(self.folder, path))
        return replace(file, path=path)

    def _hashed(self, path: str) -> IndexFile:
        digest, size = hashlib.sha256(), 0
        with self.store.open_input(path_in(self.folder, path)) as file:
            while data := file.read(_HASHED_BYTES):
                digest.update(data)
                size += len(data)
        return IndexFile(path=path, bytes=size, sha256=digest.hexdigest())

    @contextmanager
    def _edited(self, file: IndexFile) -> Iterator[Any]:
        """Yield a file's bytes, which may be changed but not made longer or shorter; a folder's file in place."""
        self.changed[file.path] = replace(file, sha256="")
        path = path_in(self.folder, file.path)
        if not file.bytes:
            yield np.empty(0, np.uint8)
            return
        place = self.store.local_path(path)
        if place is None:
            data = np.frombuffer(bytearray(self.store.read(path)), np.uint8)
            yield data
            self.store.put(path, data.tobytes())
            self.changed[file.path] = replace(file, sha256=hashlib.sha256(data.data).hexdigest())
        else:
            mapped = np.memmap(place, np.uint8, "r+")
            yield mapped.view(np.ndarray)
            mapped.flush()


def _by_range(segment: IndexSegment, positions: Integers) -> Iterator[tuple[IndexRange, Integers]]:
    """Yield the ranges that hold positions, with the places of the rows there."""
    for one in segment.ranges:
        here = positions[(positions >= one.base) & (positions < one.base + one.rows)]
        if len(here):
            yield one, here - one.base
