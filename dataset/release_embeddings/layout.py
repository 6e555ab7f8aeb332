"""The layout phase: of several rows with the same id the first is kept, and ids without a row are listed.

It needs one bit of memory for each id of the batch: 125 MB for a billion rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.release_embeddings import MISSING, MISSING_SCHEMA
from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import FileKind
from dataset.release_embeddings.match import NO_ID
from dataset.release_embeddings.plan import Work

Integers = npt.NDArray[np.int64]

_IDS_AT_ONCE = 1 << 23
"""A multiple of 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The number of rows that are kept of each unit, of repeated rows, and of missing rows by subset."""

    rows: tuple[int, ...]
    repeated: int
    missing: dict[str, int]
    missing_bytes: int
    missing_sha256: str


def write_layout(work: Work) -> Layout:
    """Write `layout/UNIT.npy`, with the ids of each unit's rows except those seen before, and `missing.parquet`."""
    subsets = work.batch.subsets
    first = min(subset.first_id for subset in subsets.values())
    last = max(subset.first_id + subset.rows for subset in subsets.values())
    seen = np.zeros(-(-(last - first) // 8), np.uint8)
    rows, repeated = [], 0
    for unit in range(work.plan.units):
        ids = read_ids(work, "match", unit)
        found = np.count_nonzero(ids != NO_ID)
        kept = _first_rows(ids, seen, first)
        without = np.full(len(ids), NO_ID, np.int64)
        without[kept] = ids[kept]
        with work.release.store.write(work.path(f"layout/{unit:06d}.npy")) as file:
            np.save(file, without)
        rows.append(len(kept))
        repeated += int(found - len(kept))
    missing: dict[str, int] = {}
    with table_writer(work.release.store, work.output_path(MISSING), MISSING_SCHEMA) as writer:
        for name, subset in subsets.items():
            embedded = False
            count = 0
            start = subset.first_id - first
            for ids in _absent(seen, start, start + subset.rows):
                count += len(ids)
            embedded = count < subset.rows
            if embedded and count:
                removed = _removed_ids(work, name)
                count = 0
                for ids in _absent(seen, start, start + subset.rows):
                    alive = np.setdiff1d(ids + first, removed, assume_unique=True)
                    writer.write(pa.table({"id": alive}, schema=MISSING_SCHEMA))
                    count += len(alive)
            missing[name] = count
    return Layout(
        rows=tuple(rows),
        repeated=repeated,
        missing=missing,
        missing_bytes=writer.file.bytes,
        missing_sha256=writer.file.sha256,
    )


def read_ids(work: Work, phase: str, unit: int) -> Integers:
    """Read the ids of a unit's rows as a phase left them."""
    with work.release.store.open_input(work.path(f"{phase}/{unit:06d}.npy")) as file:
        ids: Integers = np.load(file, allow_pickle=False)
    return ids


def _first_rows(ids: Integers, seen: npt.NDArray[np.uint8], first: int) -> Integers:
    """Return the rows whose ids are new, in their order, and mark the ids in `seen`."""
    values, rows = np.unique(ids, return_index=True)
    values, rows = values[values != NO_ID] - first, rows[values != NO_ID]
    bits = (np.uint8(1) << (values & 7).astype(np.uint8)).astype(np.uint8)
    new = (seen[values >> 3] & bits) == 0
    values, rows, bits = values[new], rows[new], bits[new]
    if len(values):
        places, starts = np.unique(values >> 3, return_index=True)
        seen[places] |= np.bitwise_or.reduceat(bits, starts)
    return np.sort(rows)


def _absent(seen: npt.NDArray[np.uint8], start: int, end: int) -> Iterator[Integers]:
    """Yield the positions from `start` to below `end` that were not seen."""
    for low in range(start // 8 * 8, end, _IDS_AT_ONCE):
        bits = np.unpackbits(seen[low // 8 : (low + _IDS_AT_ONCE) // 8], bitorder="little")
        absent = np.flatnonzero(bits == 0) + low
        yield absent[(absent >= start) & (absent < end)]


def _removed_ids(work: Work, subset: str) -> Integers:
    """Return the ids that takedowns have removed from the data files of a subset."""
    removed = [np.empty(0, np.int64)]
    for file in work.release.files(FileKind.DATA, subset=subset, batch=work.batch.name):
        if file.rows < file.last_id + 1 - file.first_id:
            alive = work.release.store.read_table(work.release.path(file.path), ["id"])["id"].to_numpy()
            removed.append(np.setdiff1d(np.arange(file.first_id, file.last_id + 1), alive, assume_unique=True))
    return np.concatenate(removed)
