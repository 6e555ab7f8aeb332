"""Rows by registrable domain: one small table for each output file, and hosts.parquet, which adds them up.

The tables are sorted by domain, so those of thousands of files are added up piece by piece.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.releases import HOST_COUNTS_SCHEMA, HOSTS_SCHEMA
from dataset.publish.errors import PublishError
from dataset.stats.hosts import host_of
from dataset.stats.suffixes import suffix_rules
from dataset.store.store import Store

# Browsers treat any number of slashes and backslashes after http: as two slashes; a backslash also begins the path.
_AUTHORITY = r"(?i)^[\x00-\x20]*(?:[a-z][a-z0-9+.-]*:[/\\]*|[/\\]{2,})(?P<authority>[^/\\?#]+)"
_PLAIN = re.compile(r"[a-z0-9_.-]*[a-z]")
_COUNTED_DOMAINS = 400_000
"""Number of tables of counts that are kept before they are added up."""
_PIECE_ROWS = 4_000
"""Domains of each file in memory at a time when the tables of all files are added up."""


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts of a column: `names[numbers[i]]` is that of row i, in its normal form."""

    names: list[str]
    numbers: npt.NDArray[np.int32]


def hosts_of(urls: pa.ChunkedArray) -> Hosts:
    """Return the host of each URL, '' if there is none."""
    authorities = pa.chunked_array([pc.struct_field(part, 0) for part in pc.extract_regex(urls, _AUTHORITY).chunks])
    coded = pc.fill_null(authorities, "").combine_chunks().dictionary_encode()
    return Hosts([normal_host(authority) for authority in coded.dictionary.to_pylist()], coded.indices.to_numpy())


def normal_host(authority: str) -> str:
    """Return the host of `user@host:port` in its one normal form, an IPv6 address in brackets."""
    if _PLAIN.fullmatch(authority):
        return authority
    host = host_of(f"http://{authority.rpartition('@')[2]}/")
    return f"[{host}]" if ":" in host else host


class HostCounts:
    """Counts the rows of one output file by registrable domain."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._domains = 0

    def add(self, rows: pa.Table) -> None:
        """Count rows with the columns URL, TEXT, WIDTH, HEIGHT and punsafe."""
        hosts, punsafe = hosts_of(rows["URL"]), rows["punsafe"]
        punsafe = pc.if_else(pc.is_nan(punsafe), pa.scalar(None, punsafe.type), punsafe)

        def total(weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
            return np.bincount(hosts.numbers, weights, len(hosts.names)).astype(np.float64, copy=False)

        counts = {
            "domain": [_registrable(host) for host in hosts.names],
            "rows": np.bincount(hosts.numbers, minlength=len(hosts.names)),
            "text_bytes": total(pc.binary_length(rows["TEXT"]).to_numpy()).astype(np.int64),
            "pixels": total(rows["WIDTH"].to_numpy() * rows["HEIGHT"].to_numpy().astype(np.int64)).astype(np.int64),
            "punsafe_sum": total(pc.fill_null(punsafe, 0.0).to_numpy()),
            "punsafe_rows": total(punsafe.is_valid().to_numpy()).astype(np.int64),
        }
        self._tables.append(_sum(pa.table(counts, schema=HOST_COUNTS_SCHEMA)))
        self._domains += len(self._tables[-1])
        if self._domains > _COUNTED_DOMAINS:
            self._tables = [_sum(pa.concat_tables(self._tables))]
            self._domains = len(self._tables[0])

    def table(self) -> pa.Table:
        """Return the counts in the order of the domains."""
        table = _sum(pa.concat_tables(self._tables)) if self._tables else HOST_COUNTS_SCHEMA.empty_table()
        return table.sort_by("domain")


@lru_cache(100_000)
def _registrable(host: str) -> str:
    return suffix_rules().domain(host)


def merge_hosts(store: Store, paths: Sequence[str]) -> Iterator[pa.Table]:
    """Add up the sorted tables at `paths`, and yield the sums sorted by domain, in pieces of bounded size.

    Raises: PublishError when one cannot be read.
    """
    cursors = [_Cursor(store, path) for path in paths]
    while cursors := [cursor for cursor in cursors if cursor.last is not None]:
        border = min(str(cursor.last) for cursor in cursors)
        yield _sum(pa.concat_tables([cursor.take_until(border) for cursor in cursors])).sort_by("domain")


class _Cursor:
    """Reads one table in pieces; `last` is the last domain of the current piece, None at the end."""

    def __init__(self, store: Store, path: str) -> None:
        self._batches = _read_batches(store, path)
        self._piece = HOST_COUNTS_SCHEMA.empty_table()
        self.last: str | None = None
        self._refill()

    def take_until(self, border: str) -> pa.Table:
        """Return the rows up to the domain `border`; the piece has no rows after it that would be skipped."""
        rows = int(pc.sum(pc.less_equal(self._piece["domain"], border)).as_py() or 0)
        taken = self._piece.slice(0, rows)
        self._piece = self._piece.slice(rows)
        if not len(self._piece):
            self._refill()
        return taken

    def _refill(self) -> None:
        self._piece = next(self._batches, HOST_COUNTS_SCHEMA.empty_table())
        self.last = self._piece["domain"][-1].as_py() if len(self._piece) else None


def _read_batches(store: Store, path: str) -> Iterator[pa.Table]:
    try:
        with store.open_input(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_PIECE_ROWS):
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise PublishError(f"{path} cannot be read ({error}): restore it, or publish under another name.") from error


def mean_punsafe(counts: pa.Table) -> pa.Table:
    """Return the rows of hosts.parquet for counts of domains."""
    rows = counts["punsafe_rows"].to_numpy()
    sums = counts["punsafe_sum"].to_numpy()
    means = np.divide(sums, rows, out=np.zeros(len(rows)), where=rows > 0)
    columns = [counts[name] for name in HOSTS_SCHEMA.names[:-1]]
    return pa.table([*columns, pa.array(means, mask=rows == 0)], schema=HOSTS_SCHEMA)


def _sum(table: pa.Table) -> pa.Table:
    sums = table.group_by("domain", use_threads=False).aggregate(
        [(name, "sum") for name in HOST_COUNTS_SCHEMA.names[1:]]
    )
    return sums.select(["domain", *(f"{name}_sum" for name in HOST_COUNTS_SCHEMA.names[1:])]).rename_columns(
        HOST_COUNTS_SCHEMA.names
    )
