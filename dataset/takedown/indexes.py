"""Indexes: removed rows are taken out of every kNN index of a release, and looked for in its files.

The removal itself is the index's (`dataset.index.delete`): the alive bit at once, then codes, rows, numbers and texts.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import (
    FRAME_ROWS,
    RECORD,
    IndexFile,
    IndexRange,
    IndexRecord,
    index_folders,
    read_index_record,
)
from dataset.formats.releases import Release
from dataset.formats.takedowns import TakedownError
from dataset.index.texts import decompress, unpack
from dataset.store.store import Store
from dataset.takedown.checks import FileCheck
from dataset.takedown.plan import Removed, Work
from dataset.takedown.release_files import file_digest

Integers = npt.NDArray[np.int64]


def remove_from_indexes(work: Work, gone: Removed) -> int:
    """Remove rows from every index; return the bytes of the files that were edited.

    Raises: TakedownError when what reads an index is not installed; SearchIndexError when one is damaged; StoreError.
        The next call goes on from there.
    """
    folders = index_folders(work.release) if len(gone.ids) else []
    return sum(
        int(work.once(f"index/{at:06d}.json", partial(_remove, work.store, folder, gone)))
        for at, folder in enumerate(folders)
    )


def _remove(store: Store, folder: str, gone: Removed) -> int:
    try:
        from dataset.index.delete import delete_ids
    except ModuleNotFoundError as error:
        raise TakedownError(
            f"{folder} is an index, and {error.name} is not installed: install Shoal with its extra [index], and apply "
            "again."
        ) from error
    removed = delete_ids(store, folder, gone.ids, gone.version)
    return sum(store.size(path) for path in removed.files)


def index_checks(release: Release, ids: Integers) -> Iterator[FileCheck]:
    """Yield the checks of every index: the checksums of its files, and the places of removed rows in each range."""
    store = release.store
    for folder in index_folders(release):
        record = read_index_record(store, folder)
        files = [record.trained, record.held_out, *(segment.positions for segment in record.segments)]
        files += [file for segment in record.segments for one in segment.ranges for file in one.files.values()]
        for file in files:
            yield FileCheck(store, f"{folder}/{file.path}", partial(_check_sum, release, folder, file))
        for segment in record.segments:
            positions = f"{folder}/{segment.positions.path}"
            inside = ids[slice(*np.searchsorted(ids, (segment.first_id, segment.end_id)))]
            places = np.frombuffer(store.read(positions), "<i8")[inside - segment.first_id] if len(inside) else inside
            for one in segment.ranges:
                local = np.sort(places[(places >= one.base) & (places < one.base + one.rows)]) - one.base
                if len(local):
                    path = f"{folder}/{one.files['lists'].path}"
                    yield FileCheck(store, path, partial(_check_range, store, folder, record, one, local))


def _check_sum(release: Release, folder: str, file: IndexFile) -> Iterator[str]:
    path = f"{folder}/{file.path}"
    relative = path.removeprefix(f"{release.folder}/") if release.folder else path
    if file_digest(release, relative) != (file.bytes, file.sha256):
        yield f"{path} is not the file that {RECORD} lists: restore it from a copy, and apply again with --again."


def _check_range(store: Store, folder: str, record: IndexRecord, one: IndexRange, local: Integers) -> Iterator[str]:
    """Look at the bytes of removed rows in each file of a range."""

    def read(role: str) -> npt.NDArray[np.uint8]:
        return np.frombuffer(store.read(f"{folder}/{one.files[role].path}"), np.uint8)

    def left(role: str, count: int) -> str:
        return f"{folder}/{one.files[role].path} still has {count} removed rows: apply again with --again."

    bits = read("bits").reshape(len(one.facets), -1)
    count = int(((bits[:, local >> 3] >> (local & 7).astype(np.uint8)) & 1).any(axis=0).sum())
    if count:
        yield left("bits", count)
    sizes = np.frombuffer(read("sizes"), "<u4")
    starts = np.cumsum(sizes, dtype=np.int64) - sizes
    width = one.files["lists"].bytes // one.rows - 8  # of a code; a list is its codes, then their positions
    lists, places = read("lists"), local * width + 8 * starts[np.searchsorted(starts, local, "right") - 1]
    count = sum(bool(lists[at : at + width].any()) for at in places.tolist())
    if count:
        yield left("lists", count)
    for role in ("rows", "numbers"):
        if role in one.files:
            rows = read(role).reshape(one.rows, -1)[local]
            if rows.any():
                yield left(role, int(rows.any(axis=1).sum()))
    if "texts" in one.files:
        count = sum(1 for texts in _texts(read("texts"), read("frames").view("<u8"), record, local) if any(texts))
        if count:
            yield left("texts", count)


def _texts(
    data: npt.NDArray[np.uint8], frames: npt.NDArray[np.uint64], record: IndexRecord, local: Integers
) -> Iterator[list[str | None]]:
    for at in np.unique(local // FRAME_ROWS).tolist():
        columns = unpack(decompress(data[int(frames[at]) : int(frames[at + 1])].tobytes()), len(record.texts))
        for row in (local[local // FRAME_ROWS == at] % FRAME_ROWS).tolist():
            yield [column[row] for column in columns]
