"""Remove samples that must not be seen from a shard, so that a crash in between exposes none of them.

    1  <shard>.removed.json   which keys, and why: from here on the removal is decided, whichever worker continues it
    2  <shard>.tar            rewritten without their members, and replaced
    3  <shard>.parquet        their rows keep ANONYMOUS_COLUMNS; all other columns are blank

Each step replaces one file as a whole and can be repeated: a worker that finds `removed.json` gives the same verdicts
and repeats all steps until nothing of the samples is left. `pack` and `pack_row` stay, so that the operator can look up
the link's origin to report it; nothing in the store shows the link.

A shard is rewritten once for all of its removals; S3 has no cheaper way to remove a part of an object.
"""

import io
import json
import tarfile
from collections.abc import Collection, Mapping
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.formats.parts import REMOVED, Verdict
from dataset.formats.shards import ANONYMOUS_COLUMNS, blank_value
from dataset.store.store import Store


class RemovalError(DatasetError):
    """The removals of a shard cannot be read."""


def read_removed(store: Store, shard: str) -> dict[str, Verdict]:
    """Return the verdicts of the samples that are, or are about to be, removed from a shard, by key.

    Raises: RemovalError when `removed.json` is damaged; StoreError.
    """
    place = f"{shard}.removed.json"
    if not store.exists(place):
        return {}
    try:
        marked = {str(key): Verdict(reason) for key, reason in json.loads(store.read(place)).items()}
    except (ValueError, AttributeError) as error:
        raise RemovalError(f"{place} is damaged ({error}): delete the shard, or restore the file.") from error
    if not set(marked.values()) <= REMOVED:
        raise RemovalError(f"{place} contains a verdict that removes nothing: delete the shard, or restore the file.")
    return marked


def remove_samples(store: Store, shard: str, found: Mapping[str, Verdict]) -> None:
    """Remove the samples with these keys from a shard permanently; if they are already removed, do nothing.

    Raises: StoreError when the store does not take a file; the next call continues from there.
    """
    if not found:
        return
    marked = read_removed(store, shard)
    wanted = marked | dict(found)
    if marked != wanted:
        said = strict_json.dumps({key: wanted[key].value for key in sorted(wanted)}, indent=1)
        store.put(f"{shard}.removed.json", said.encode("utf-8"))
    rows = store.read_table(f"{shard}.parquet")
    hit = pc.is_in(rows["key"], value_set=pa.array(sorted(wanted), pa.string()))
    blanked = _blanked(rows, hit)
    if marked == wanted and rows.filter(hit).equals(blanked.filter(hit)):
        return  # the last step is done, so all steps are
    remove_members(store, f"{shard}.tar", set(wanted))
    store.write_table(f"{shard}.parquet", blanked)


def remove_members(store: Store, place: str, keys: Collection[str]) -> None:
    """Replace a tar by a copy without the members of `keys`; do nothing if there is no tar.

    Members after damage cannot be identified and are left out.

    Raises: StoreError when the store does not take the file; then the tar is as it was.
    """
    if not store.exists(place):
        return
    with (
        store.open_input(place) as source,
        store.write(place) as target,
        tarfile.open(fileobj=target, mode="w|", format=tarfile.USTAR_FORMAT) as kept,
        suppress(tarfile.TarError, EOFError, ValueError),
        tarfile.open(fileobj=source, mode="r|") as members,
    ):
        for member in members:
            members.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header
            kept.members = []  # type: ignore[attr-defined]
            if member.name.partition(".")[0] not in keys:
                content = members.extractfile(member)
                data = content.read() if content else b""
                if len(data) == member.size:
                    kept.addfile(member, io.BytesIO(data))


def _blanked(rows: pa.Table, hit: pa.ChunkedArray) -> pa.Table:
    """Return the rows with all columns blanked except the anonymous ones, where `hit` is true."""
    blank = pc.if_else(hit, None, pa.array(range(rows.num_rows), pa.int64()))  # taking at null gives null of any type
    for index, field in enumerate(rows.schema):
        if field.name in ANONYMOUS_COLUMNS:
            continue
        column, value = rows.column(index), blank_value(field.name)
        emptied = column.take(blank) if value is None else pc.if_else(hit, value, column)
        rows = rows.set_column(index, field, emptied)
    return rows
