"""Trace a row of a release to its origin: shard, part, pack, page, WAT file, and the recipe.

    id ─▶ source/ (input, key) ─▶ the input's manifest: the shard by its job, the first ten digits of the key
                               ─▶ the shard's row (pack, row) ─▶ the pack: page and WAT file

Values whose files were deleted are None. The manifest does not say which part was made from which shard; among the
parts whose jobs came soon after the shard's job, the part that has the key is the right one.
"""

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.manifest import Output, OutputKind, outputs
from dataset.formats.releases import ROW_GROUP_ROWS, FileKind, Release, ReleaseInput
from dataset.publish.errors import PublishError
from dataset.store.store import Store, StoreError

PARTS_TRIED = 10_000
"""Filter jobs begin minutes after their shard's download, when other shards are filtered too."""
_KEY_POSITIONS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The origin of a row; paths are in the store of its input."""

    id: int
    release: str
    version: str
    subset: str
    batch: str
    url: str | None
    """None if the row was removed from the live version."""
    text: str | None
    store: str
    tracker: str
    run: str
    recipe: str
    """Digest; the models with their checksums are in release.json."""
    key: str
    shard: str | None
    part: str | None
    pack: str | None
    pack_row: int | None
    page: str | None
    wat: str | None


def trace_row(release: Release, row_id: int, own: Store) -> Trace:
    """Return the origin of the row with this id; `own` is the store in which the release was published.

    Raises: PublishError when no row ever had this id, or the record of its origin was removed; ManifestError when its
    input's
        manifest cannot be read.
    """
    file = next((one for one in release.files(FileKind.SOURCE) if one.first_id <= row_id <= one.last_id), None)
    if file is None:
        if row_id >= release.record.next_id:
            raise PublishError(
                f"No row of {release.record.name} has the id {row_id}: ids go from 0 to {release.record.next_id - 1}."
            )
        raise PublishError(
            f"{release.record.name} has no file in source/ for the id {row_id}: trace the row in the store where the "
            "release was published. Copies do not include source/, because it is private."
        )
    source = _row_at(release.store, release.path(file.path), row_id - file.first_id)
    if source["key"] is None:
        raise PublishError(
            f"The row {row_id} of {release.record.name} was removed, together with the record of its origin."
        )
    described = release.record.inputs[source["input"]]
    store = own if described.store == "." else release.input_store(described.store)
    key = f"{source['key']:015d}"
    data = _data_row(release, row_id)
    shard = _find(store, OutputKind.SHARD, described, lambda output: output.job == source["key"] // _KEY_POSITIONS)
    place = _shard_row(store, shard, key) if shard else None
    pack = _find(store, OutputKind.PACK, described, lambda output: output.output_id == place["pack"]) if place else None
    found = _pack_row(store, pack, place["pack_row"]) if pack and place else {}
    return Trace(
        id=row_id,
        release=release.record.name,
        version=release.record.version,
        subset=file.subset,
        batch=file.batch,
        url=data.get("URL"),
        text=data.get("TEXT"),
        store=release.input_uri(described.store),
        tracker=described.tracker,
        run=described.run,
        recipe=described.recipe,
        key=key,
        shard=shard.path if shard else None,
        part=_find_part(store, described, key),
        pack=pack.path if pack else None,
        pack_row=place["pack_row"] if place else None,
        page=found.get("page_url") or None,
        wat=found.get("wat"),
    )


def _find(store: Store, kind: OutputKind, described: ReleaseInput, wanted: Callable[[Output], bool]) -> Output | None:
    return next((output for output in outputs(store, kind=kind, run=described.run) if wanted(output)), None)


def _find_part(store: Store, described: ReleaseInput, key: str) -> str | None:
    job = int(key) // _KEY_POSITIONS
    later = (part for part in outputs(store, kind=OutputKind.PART, run=described.run) if part.job >= job)
    for part in heapq.nsmallest(PARTS_TRIED, later, key=lambda part: part.job):
        if _has_key(store, f"{part.path}.parquet", key):
            return part.path
    return None


def _has_key(store: Store, path: str, key: str) -> bool:
    """Return whether a part has a key; parts are sorted by key, so for most of them the footer is enough."""
    with _opened(store, path) as file:
        column = file.schema_arrow.get_field_index("key")
        for at in range(file.num_row_groups):
            statistics = file.metadata.row_group(at).column(column).statistics
            if statistics is None or statistics.min <= key <= statistics.max:
                keys = file.read_row_group(at, columns=["key"])["key"]
                if pc.any(pc.equal(keys, key)).as_py():
                    return True
    return False


def _data_row(release: Release, row_id: int) -> dict[str, Any]:
    """Return the row of `data/`; {} if it was removed."""
    for file in release.files(FileKind.DATA):
        if not file.first_id <= row_id <= file.last_id:
            continue
        with _opened(release.store, release.path(file.path)) as table:
            for rows in table.iter_batches(ROW_GROUP_ROWS, columns=["id", "URL", "TEXT"]):
                found = pa.table(rows).filter(pc.equal(rows["id"], row_id)).to_pylist()
                if found:
                    return dict(found[0])
    return {}


def _shard_row(store: Store, shard: Output, key: str) -> dict[str, Any] | None:
    try:
        rows = store.read_table(f"{shard.path}.parquet", ["key", "pack", "pack_row"])
    except StoreError:
        return None
    return next(iter(rows.filter(pc.equal(rows["key"], key)).to_pylist()), None)


def _pack_row(store: Store, pack: Output, row: int) -> dict[str, Any]:
    try:
        rows = store.read_table(f"{pack.path}.parquet", ["page_url"])
    except StoreError:
        return {}
    wat = (rows.schema.metadata or {}).get(b"wat")
    return {"page_url": rows["page_url"][row].as_py(), "wat": wat.decode() if wat else None}


@contextmanager
def _opened(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    try:
        with store.open_input(path) as file:
            yield pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise PublishError(
            f"{path} cannot be read ({' '.join(str(error).split())}): restore it from a copy."
        ) from error


def _row_at(store: Store, path: str, position: int) -> dict[str, Any]:
    with _opened(store, path) as file:
        rows = file.read_row_group(position // ROW_GROUP_ROWS)
    return dict(rows.slice(position % ROW_GROUP_ROWS, 1).to_pylist()[0])
