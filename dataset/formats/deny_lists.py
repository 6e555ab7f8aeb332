"""Deny lists: the pairs, URLs, pictures and hosts that future crawls and releases must not contain.

They are the files `deny/NNNN-REQUEST.parquet` in the store; they are private and append-only, and `dataset takedown`
writes them. A value is text: for a `pair` its hash in decimal; for a `url` the URL's sha256 in hex, so that the list
does not reveal removed URLs; for a picture its sha256, md5, sha1 or pdq in hex; for a `host` its name in lower case,
which includes its subdomains.

A list may have many million entries, so it is written and read in pieces, and checked by whole columns.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.errors import DatasetError
from dataset.store.store import Store, StoreError

FOLDER = "deny"
ENTRIES_AT_ONCE = 1 << 17
"""Entries in memory at a time: about 20 MB."""

DENY_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("value", pa.string()),
        ("reason", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
    ]
)


class DenyKind(StrEnum):
    """The kind of an entry's value."""

    PAIR = "pair"
    URL = "url"
    SHA256 = "sha256"
    MD5 = "md5"
    SHA1 = "sha1"
    PDQ = "pdq"
    HOST = "host"


class DenyListError(DatasetError):
    """A deny list cannot be read; nothing may be published without it."""


HEX_DIGITS = {DenyKind.URL: 64, DenyKind.SHA256: 64, DenyKind.MD5: 32, DenyKind.SHA1: 40, DenyKind.PDQ: 64}


def list_deny_files(store: Store) -> list[str]:
    """Return the paths of the store's deny lists, oldest first."""
    return [path for path in store.list(FOLDER) if path.endswith(".parquet")]


def deny_path(number: int, request: str = "") -> str:
    """Return the path of the list that has this number; `request` distinguishes lists that are written at the same
    time.
    """
    return f"{FOLDER}/{number:04d}{f'-{request}' if request else ''}.parquet"


def write_deny_list(store: Store, entries: pa.Table | Iterable[pa.Table], *, request: str = "") -> str:
    """Write a new deny list with these entries, and return its path.

    Raises: DenyListError when an entry does not have the form of its kind; StoreError when it cannot be written.
    """
    path = deny_path(len(list_deny_files(store)), request)
    with store.write(path) as file, pq.ParquetWriter(file, DENY_SCHEMA, compression="zstd") as writer:
        for table in [entries] if isinstance(entries, pa.Table) else entries:
            rows = table.select(DENY_SCHEMA.names).cast(DENY_SCHEMA)
            check_entries(rows, "the new deny list")
            writer.write_table(rows)
    return path


def read_deny_list(store: Store, path: str) -> Iterator[pa.Table]:
    """Yield the kind, value and reason of the entries, ENTRIES_AT_ONCE at a time.

    Raises: DenyListError when the file is missing or damaged, or an entry does not have the form of its kind.
    """
    try:
        with store.open_input(path) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):  # iter_batches keeps everything it has read in memory
                rows = parquet.read_row_group(group, columns=["kind", "value", "reason"])
                check_entries(rows, path)
                for start in range(0, len(rows), ENTRIES_AT_ONCE):
                    yield rows.slice(start, ENTRIES_AT_ONCE)
    except (StoreError, OSError, KeyError, pa.ArrowException) as error:
        raise DenyListError(f"Cannot read the deny list {path} ({error}): restore it; without it nothing "
                            "may be published.") from error  # fmt: skip


def check_entries(rows: pa.Table, path: str) -> None:
    """Check the form of entries.

    Raises: DenyListError when one does not have the form of its kind.
    """
    left = len(rows)
    for kind in DenyKind:
        values = rows["value"].filter(pc.fill_null(pc.equal(rows["kind"], kind.value), False))
        left -= len(values)
        if not _are_valid(kind, values):
            raise DenyListError(f"An entry of {path} is not a valid {kind}: correct that list.")
    if left:
        strange = sorted({str(kind) for kind in rows["kind"].unique().to_pylist()} - set(DenyKind))
        raise DenyListError(f"An entry of {path} is not a valid {strange[0]}: correct that list.")


def _are_valid(kind: DenyKind, values: pa.ChunkedArray) -> bool:
    match kind:
        case DenyKind.PAIR:
            good = pc.match_substring_regex(values, r"^-?[0-9]{1,19}$")
        case DenyKind.HOST:
            good = pc.and_(pc.match_substring_regex(values, r"^[^/]+$"), pc.equal(pc.utf8_lower(values), values))
        case _:
            good = pc.match_substring_regex(values, rf"^[0-9a-f]{{{HEX_DIGITS[kind]}}}$")
    if not pc.all(pc.fill_null(good, False)).as_py() and len(values):
        return False
    if kind is DenyKind.PAIR:
        try:
            values.cast(pa.int64())
        except pa.ArrowInvalid:  # beyond 64 bits
            return False
    return True
