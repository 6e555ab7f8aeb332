"""Which rows of an index were removed, by its files: for those who change it."""

import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import IndexRecord
from dataset.index.facets import ALIVE
from dataset.store.store import Store

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def alive_ids(store: Store, folder: str, record: IndexRecord, ids: Integers) -> npt.NDArray[np.bool_]:
    """Return which ids are in an index and were not removed from it -> (n,) bool."""
    alive = np.zeros(len(ids), bool)
    for segment in record.segments:
        inside = np.flatnonzero((ids >= segment.first_id) & (ids < segment.end_id))
        positions = mapped(store, path_in(folder, segment.positions.path)).view("<i8")[ids[inside] - segment.first_id]
        for one in segment.ranges:
            here = np.flatnonzero((positions >= one.base) & (positions < one.base + one.rows))
            if len(here):
                bits = mapped(store, path_in(folder, one.files["bits"].path)).reshape(len(one.facets), -1)
                local = positions[here] - one.base
                row = bits[one.facets.index(ALIVE)]
                alive[inside[here]] = (row[local >> 3] >> (local & 7).astype(np.uint8)) & 1
    return alive


def mapped(store: Store, path: str) -> Bytes:
    """Return a file's bytes: mapped in a folder, read from an object store."""
    place = store.local_path(path)
    return np.memmap(place, np.uint8, "r") if place else np.frombuffer(store.read(path), np.uint8)


def removed_ids(store: Store, folder: str, record: IndexRecord) -> Integers:
    """Return the ids of rows that were removed from an index and not compacted away, in order -> (n,) int64."""
    found = [np.empty(0, np.int64)]
    for one in (one for segment in record.segments for one in segment.ranges):
        bits = np.frombuffer(store.read(path_in(folder, one.files["bits"].path)), np.uint8).reshape(len(one.facets), -1)
        alive = np.unpackbits(bits[one.facets.index(ALIVE)], count=one.rows, bitorder="little")
        if not alive.all():
            ids = np.frombuffer(store.read(path_in(folder, one.files["ids"].path)), "<i8")
            found.append(ids[alive == 0])
    return np.sort(np.concatenate(found))


def path_in(folder: str, relative: str) -> str:
    """Return the path in the store of a file of the index in a folder; '' for the store's own."""
    return f"{folder}/{relative}" if folder else relative
