"""The run phase: the parts of a group become one run, sorted by (range, subset, hash).

Rows that a release never contains are dropped here and counted: denied pairs, URLs with credentials, and with
--drop-contacts captions with an e-mail address or phone number.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.embeddings import removed_rows
from dataset.formats.releases import SUBSETS, ReleaseInput
from dataset.publish.deny import DenyRules
from dataset.publish.digests import digest_bytes, fingerprints
from dataset.publish.errors import PublishError
from dataset.publish.inputs import Part, damaged, open_part, read_head
from dataset.publish.plan import Work
from dataset.publish.record_file import Records
from dataset.publish.run_file import KEY
from dataset.publish.screens import find_contacts, has_credentials
from dataset.publish.sections import range_of
from dataset.publish.uniqueness import write_values
from dataset.store.store import Store

DENIED = "denied"
CREDENTIALS = "credentials"
CONTACTS = "contacts"


def write_run(work: Work, group: int) -> dict[str, int]:
    """Sort the parts of a group into a run, and return how many rows were dropped, by reason.

    Raises: PublishError for a part that is missing, damaged or of other models; StoreError when the store is full.
    """
    rows = _read_parts(work, group)
    contacts = find_contacts(rows["TEXT"])
    dropped: Counter[str] = Counter()
    keep = np.ones(len(rows), bool)
    for reason, mask in (
        (DENIED, _deny_rules(work.release_store.uri, work.plan.deny).matches(rows)),
        (CREDENTIALS, has_credentials(rows["URL"])),
        (CONTACTS, (contacts > 0) & work.plan.options.drop_contacts),
    ):
        dropped[reason] += int((keep & mask).sum())
        keep &= ~mask
    order, section_rows = _sort(work, rows, keep)
    rows = rows.select(work.row_schema.names).take(pa.array(order))
    work.run_file(group).write(rows, _keys(rows, contacts[order]), section_rows)
    write_values(work, group, rows)
    return dict(dropped)


def _sort(
    work: Work, rows: pa.Table, keep: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows to keep, sorted by (range, subset, hash), and the number of rows of each section."""
    hashes = rows["hash"].to_numpy()
    order = np.argsort(hashes)
    order = order[keep[order]]
    count = work.plan.ranges * len(SUBSETS)
    numbers = range_of(hashes, work.plan.ranges) * len(SUBSETS) + _subset_numbers(rows["subset"])
    sections = numbers[order].astype(np.uint16 if count <= 2**16 else np.int64)
    # Rows sorted by hash are already in the order of ranges; a stable sort of 16-bit numbers is a radix sort.
    return order[np.argsort(sections, kind="stable")], np.bincount(sections, minlength=count)


def _read_parts(work: Work, group: int) -> pa.Table:
    """Read the columns that the release needs from the parts, in the release's types; a column that the parts lack is
    null.
    """
    at, parts = work.read_group(group)
    store, described = work.input_store(at), work.plan.inputs[at]
    seen: set[tuple[bytes, ...]] = set()
    names = [*work.row_schema.names, "subset"]
    table = pa.concat_tables([_read_part(store, part, described, names, seen) for part in parts])
    columns = {
        field.name: _as_type(table[field.name], field, described.run)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in work.row_schema
    }
    _check_known(columns, described.run)
    return pa.table(columns, schema=work.row_schema).append_column("subset", table["subset"])


def _read_part(
    store: Store, part: Part, described: ReleaseInput, names: list[str], seen: set[tuple[bytes, ...]]
) -> pa.Table:
    with open_part(store, part.path) as file:
        _check_head(file.schema_arrow, part.path, described, seen)
        try:
            table = file.read(columns=names, use_threads=False)
            rows = part.rows - removed_rows(file.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise damaged(part.path, error) from error
    if len(table) != rows:
        raise damaged(part.path, f"it has {len(table)} rows, but the manifest says {rows}")
    return table.replace_schema_metadata(None)


def _as_type(column: pa.ChunkedArray, field: pa.Field, run: str) -> pa.ChunkedArray | pa.Array:
    try:
        if pa.types.is_fixed_size_binary(field.type) and pa.types.is_string(column.type):
            return digest_bytes(column, field.type.byte_width)
        return column.cast(field.type)
    except (pa.ArrowException, ValueError) as error:
        raise PublishError(
            f"A {field.name} in the parts of {run} has an unexpected type or value ({' '.join(str(error).split())}): "
            "filter the shards again, and write the manifest again (tracker manifest)."
        ) from error


def _check_known(columns: Mapping[str, pa.ChunkedArray | pa.Array], run: str) -> None:
    """Refuse rows that lack a value which every pair must have: numbers with nulls would become floats, which round a
    hash.
    """
    for name in ("hash", "key", "URL", "TEXT", "WIDTH", "HEIGHT"):
        if columns[name].null_count:
            raise PublishError(
                f"A {name} in the parts of {run} is missing: filter the shards again, and write the manifest again "
                "(tracker manifest)."
            )


def _check_head(schema: pa.Schema, path: str, described: ReleaseInput, seen: set[tuple[bytes, ...]]) -> None:
    """Refuse a part that was made with other models or heads than the first part of its run.

    `seen` are the heads of this group that were accepted: reading the JSON of each part would cost as much as its rows.
    """
    metadata = schema.metadata or {}
    told = (*(metadata.get(name, b"") for name in (b"shoal.models", b"shoal.tags")), repr(schema.names).encode())
    if told in seen:
        return
    head = read_head(schema, path)
    for what in ("models", "tags", "columns"):
        if getattr(head, what) != getattr(described, what):
            raise PublishError(
                f"The part {path} was made with other {what} than the first of the run {described.run}: filter its "
                "shard again with the run's recipe, and write the manifest again (tracker manifest)."
            )
    seen.add(told)


def _subset_numbers(subsets: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the position in SUBSETS of each row's subset -> (N,) int64."""
    numbers = pc.index_in(subsets, value_set=pa.array(SUBSETS))
    if numbers.null_count:
        wrong = subsets.filter(pc.is_null(numbers))[0].as_py()
        raise PublishError(
            f"A part has the subset {wrong!r}, which is not one of {', '.join(SUBSETS)}: filter its shard again."
        )
    found: npt.NDArray[np.int64] = numbers.to_numpy().astype(np.int64)
    return found


def _keys(rows: pa.Table, contacts: npt.NDArray[np.uint8]) -> Records:
    keys = np.empty(len(rows), KEY)
    keys["hash"] = rows["hash"].to_numpy()
    keys["similarity"] = pc.fill_null(rows["similarity"], -2.0).to_numpy()  # lower than every cosine
    keys["key"] = rows["key"].to_numpy()
    keys["fingerprint"] = fingerprints(rows["URL"], rows["TEXT"])
    keys["contacts"] = contacts
    return keys


@lru_cache(1)
def _deny_rules(uri: str, paths: tuple[str, ...]) -> DenyRules:
    return DenyRules.load(Store.open(uri, writable=False), paths)
