"""Removal: takes samples out of a shard that nobody may look at, so that a crash on the way hides none of them.

    1  <shard>.removed.json   which keys, and why: from here on it is settled, whoever comes next
    2  <shard>.tar            written anew without their members, then put in the old one's place
    3  <shard>.parquet        their rows keep `ANONYMOUS_COLUMNS`, and are blank in all others

Each step replaces one file whole, and each can be done again: a worker that finds the mark gives the same verdicts and
goes through all steps once more, until nothing of the samples is left. `pack` and `pack_row` stay, so that whoever has
to report a find can look up where the link came from; nothing in the store shows it.

A shard is read and written once for all of its finds; S3 knows no cheaper way to take something out of an object.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.formats.parts import REMOVED, Verdict
from dataset.formats.shards import ANONYMOUS_COLUMNS, blank_value
from dataset.store.store import Store


class RemovalError(DatasetError):
    """A shard's removals cannot be read."""


def read_removed(store: Store, shard: str) -> dict[str, Verdict]:
    """Return the verdicts of the samples that were taken out of a shard, or are about to be, by key.

    Raises: RemovalError when the mark is damaged; StoreError.
    """
    place = f"{shard}.removed.json"
    if not store.exists(place):
        return {}
    try:
        marked = {str(key): Verdict(reason) for key, reason in json.loads(store.read(place)).items()}
    except (ValueError, AttributeError) as error:
        raise RemovalError(f"{place} is damaged ({error}): delete the shard, or restore the file.") from error
    if not set(marked.values()) <= REMOVED:
        raise RemovalError(f"{place} names a verdict that removes nothing: delete the shard, or restore the file.")
    return marked


def remove_samples(store: Store, shard: str, found: Mapping[str, Verdict]) -> None:
    """Take the samples with these keys out of a shard, for good; nothing is done when they are out already.

    Raises: StoreError when the store does not take a file; the next call goes on from there.
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
        return  # the last step was done, so all were
    _rewrite_tar(store, shard, set(wanted))
    store.write_table(f"{shard}.parquet", blanked)


def _rewrite_tar(store: Store, shard: str, keys: set[str]) -> None:
    """Copy the tar's members but those of `keys`; what lies behind damage cannot be told apart, and is left out."""
    place = f"{shard}.tar"
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
            members.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header
            kept.members = []  # type: ignore[attr-defined]
            if member.name.partition(".")[0] not in keys:
                content = members.extractfile(member)
                data = content.read() if content else b""
                if len(data) == member.size:
                    kept.addfile(member, io.BytesIO(data))


def _blanked(rows: pa.Table, hit: pa.ChunkedArray) -> pa.Table:
    """Blank all columns but the anonymous ones where `hit` is true."""
    blank = pc.if_else(hit, None, pa.array(range(rows.num_rows), pa.int64()))  # taking at null gives null, of any type
    for index, field in enumerate(rows.schema):
        if field.name in ANONYMOUS_COLUMNS:
            continue
        column, value = rows.column(index), blank_value(field.name)
        emptied = column.take(blank) if value is None else pc.if_else(hit, value, column)
        rows = rows.set_column(index, field, emptied)
    return rows
