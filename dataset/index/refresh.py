"""Make the bitmaps and counts of facets anew: after side tables have changed, such as tags or near-duplicates.

Scores of side tables (punsafe, pwatermark, aesthetic) take the place of the release's own; the groups of
near-duplicates come from the side table `duplicates`. The new files have new names, and index.json is replaced last:
readers go on with the old ones until then. Memory: a range's numbers; the values of side tables are kept in files in
`scratch`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from dataset.formats import duplicates
from dataset.formats.index_files import (
    RECORD,
    IndexFile,
    IndexRange,
    IndexRecord,
    IndexSegment,
    range_file,
    read_index_record,
)
from dataset.formats.json_records import to_json
from dataset.formats.release_parquet import HashedFile
from dataset.formats.releases import Release
from dataset.formats.side_tables import SideTable, read_side_tables, score_tables
from dataset.index.facets import ALIVE, REPRESENTATIVE, SCORES, count_by_list, facet_masks, pack_masks
from dataset.index.groups import COLUMNS as GROUP_COLUMNS
from dataset.index.groups import ROLES as GROUP_ROLES
from dataset.index.groups import make_records, pack_groups
from dataset.index.numbers import record_type
from dataset.index.sources import has_groups
from dataset.store.lock import locked
from dataset.store.store import Store

Values = Mapping[str, npt.NDArray[Any]]
"""Of a segment by column: (end,) by position."""


def refresh(store: Store, folder: str, release: Release | None, scratch: Path) -> IndexRecord:
    """Replace the bitmaps of the index in a folder of a store; return the new record.

    Raises: SearchIndexError when there is no index; SideTableError; StoreError.
    """
    with locked(store, folder):
        record = read_index_record(store, folder)
        tables = read_side_tables(release) if release else {}
        segments = []
        for at, segment in enumerate(record.segments):
            values = _values(store, folder, segment, release, tables, scratch / str(at)) if release else {}
            ranges = tuple(_refreshed(store, folder, record, segment, at, values) for at in range(len(segment.ranges)))
            segments.append(replace(segment, ranges=ranges))
        renewed = replace(
            record, version=release.record.version if release else record.version, segments=tuple(segments)
        )
        store.put(_path(folder, RECORD), to_json(renewed))
        kept = {file.path for file in renewed.files}
        for file in record.files:
            if file.path not in kept:
                store.delete(_path(folder, file.path))
    return renewed


def _values(
    store: Store,
    folder: str,
    segment: IndexSegment,
    release: Release,
    tables: Mapping[str, SideTable],
    scratch: Path,
) -> Values:
    """Write the side tables' values by position into files, and return them mapped."""
    wanted = {score: (table, score, "<f4", np.nan) for score, table in score_tables(tables, SCORES).items()}
    if has_groups(tables):
        for name in GROUP_COLUMNS:
            wanted[name] = (tables[duplicates.NAME], name, "<i8", 0)
    if not wanted:
        return {}
    scratch.mkdir(parents=True, exist_ok=True)
    path = _path(folder, segment.positions.path)
    place = store.local_path(path)
    positions = np.memmap(place, "<i8", "r") if place else np.frombuffer(store.read(path), "<i8")
    end = max(one.base + one.rows for one in segment.ranges)
    found: dict[str, npt.NDArray[Any]] = {}
    for name, (table, column, kind, missing) in wanted.items():
        values = np.memmap(scratch / name, kind, "w+", shape=(max(1, end),))
        values[:] = missing
        for ids, some in _column(release, table, column, kind):
            inside = (ids >= segment.first_id) & (ids < segment.end_id)
            at = positions[ids[inside] - segment.first_id]
            values[at[at >= 0]] = some[inside][at >= 0]
        found[name] = values
    return found


def _column(
    release: Release, table: SideTable, name: str, kind: str
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Yield ids and values of a table's column, a row group at a time."""
    for file in table.files:
        with release.store.open_input(release.path(file.path)) as opened:
            parquet = pq.ParquetFile(opened)
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, columns=["id", name], use_threads=False)
                column = rows[name] if kind == "<f4" else rows[name].fill_null(0)
                yield rows["id"].to_numpy(), column.to_numpy().astype(kind)


def _refreshed(
    store: Store, folder: str, record: IndexRecord, segment: IndexSegment, at: int, values: Values
) -> IndexRange:
    """Write a range's new bitmaps and counts, and return the range with them."""
    one = segment.ranges[at]
    numbers = np.zeros(one.rows, record_type(record.numbers))
    if "numbers" in one.files:
        numbers = np.frombuffer(store.read(_path(folder, one.files["numbers"].path)), numbers.dtype)
    sizes = np.frombuffer(store.read(_path(folder, one.files["sizes"].path)), "<u4")
    bits = np.frombuffer(store.read(_path(folder, one.files["bits"].path)), np.uint8).reshape(len(one.facets), -1)
    alive = np.unpackbits(bits[one.facets.index(ALIVE)], count=one.rows, bitorder="little").view(np.bool_)
    here = {name: np.asarray(column[one.base : one.base + one.rows]) for name, column in values.items()}
    masks = facet_masks(_with_scores(numbers, here), record.categories)
    files = {role: file for role, file in one.files.items() if role not in GROUP_ROLES}
    made: dict[str, tuple[str, bytes]] = {}
    if REPRESENTATIVE in here:
        ids = np.frombuffer(store.read(_path(folder, one.files["ids"].path)), "<i8")
        groups = make_records(ids, *(here[name] for name in GROUP_COLUMNS))
        groups["group_size"][~alive] = 0
        masks[REPRESENTATIVE] = groups["representative"] == ids
        made |= {role: (GROUP_ROLES[role], data) for role, data in pack_groups(ids, groups).items()}
    masks = {name: mask & alive for name, mask in masks.items()}
    made["bits"] = "bits", pack_masks(masks).tobytes()
    made["facets"] = "u32", count_by_list(masks, sizes).tobytes()
    revision = int(one.files["bits"].path.rsplit(".", 2)[1]) + 1
    for role, (ending, data) in made.items():
        path = range_file(segment.name, role, at, ending, revision)
        with store.write(_path(folder, path)) as file:
            hashed = HashedFile(file)
            hashed.write(data)
        files[role] = IndexFile(path=path, bytes=hashed.bytes, sha256=hashed.sha256)
    return replace(one, facets=tuple(masks), files=files)


def _with_scores(numbers: npt.NDArray[np.void], values: Values) -> npt.NDArray[np.void]:
    """Return the numbers with the side tables' scores in place of the release's, where a row has one."""
    scores = [name for name in values if name in SCORES]
    if not scores:
        return numbers
    fields = [(name, numbers.dtype[name]) for name in numbers.dtype.names or ()]
    fields += [(name, np.dtype("<f4")) for name in scores if name not in (numbers.dtype.names or ())]
    found = np.zeros(len(numbers), np.dtype(fields))
    for name, _ in fields:
        found[name] = numbers[name] if name in (numbers.dtype.names or ()) else np.nan
    for name in scores:
        found[name] = np.where(np.isnan(values[name]), found[name], values[name])
    return found


def _path(folder: str, relative: str) -> str:
    return f"{folder}/{relative}" if folder else relative
