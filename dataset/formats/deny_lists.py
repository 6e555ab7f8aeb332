"""Deny lists: the pairs, URLs, pictures and hosts that are kept out of future crawls and releases.

They are the files `deny/NNNN.parquet` in the store; they are private and append-only, and `dataset takedown` writes
them. A value is text: for a `pair` its hash in decimal; for a `url` the URL's sha256 in hex, so that the list does not
lead to removed URLs; for a picture its sha256, md5 or pdq in hex; for a `host` its name in lower case, which includes
its subdomains.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import pyarrow as pa

from dataset.errors import DatasetError
from dataset.store.store import Store, StoreError

FOLDER = "deny"

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
    PDQ = "pdq"
    HOST = "host"


class DenyListError(DatasetError):
    """A deny list cannot be read; nothing may be published without it."""


_HEX_DIGITS = {DenyKind.URL: 64, DenyKind.SHA256: 64, DenyKind.MD5: 32, DenyKind.PDQ: 64}


def list_deny_files(store: Store) -> list[str]:
    """Return the paths of the store's deny lists, oldest first."""
    return [path for path in store.list(FOLDER) if path.endswith(".parquet")]


def write_deny_list(store: Store, entries: pa.Table) -> str:
    """Write a new deny list with these entries, and return its path.

    Raises: DenyListError when an entry does not have the form of its kind; StoreError when it cannot be written.
    """
    table = entries.select(DENY_SCHEMA.names).cast(DENY_SCHEMA)
    for row in table.select(["kind", "value"]).to_pylist():
        check_entry(row["kind"], row["value"], "the new deny list")
    path = f"{FOLDER}/{len(list_deny_files(store)):04d}.parquet"
    store.write_table(path, table)
    return path


def read_deny_list(store: Store, path: str) -> Iterator[tuple[DenyKind, str]]:
    """Yield the kind and the value of each entry.

    Raises: DenyListError when the file is missing or damaged, or an entry does not have the form of its kind.
    """
    try:
        table = store.read_table(path, ["kind", "value"])
        rows: Sequence[dict[str, str]] = table.to_pylist()
    except (StoreError, KeyError) as error:
        raise DenyListError(f"Cannot read the deny list {path} ({error}): restore it; without it nothing "
                            "may be published.") from error  # fmt: skip
    for row in rows:
        yield check_entry(row["kind"], row["value"], path), row["value"]


def check_entry(kind: str, value: str, path: str) -> DenyKind:
    """Return the kind of an entry.

    Raises: DenyListError when it does not have the form of its kind.
    """
    try:
        found = DenyKind(kind)
        match found:
            case DenyKind.PAIR:
                good = -(2**63) <= int(value) < 2**63
            case DenyKind.HOST:
                good = bool(value) and value == value.lower() and "/" not in value
            case _:
                good = len(value) == _HEX_DIGITS[found] and value == value.lower() and int(value, 16) >= 0
    except (ValueError, TypeError):
        good = False
    if not good:
        raise DenyListError(f"An entry of {path} is not a valid {kind}: correct that list.")
    return found
