"""Rows by registrable domain: one small table for each output file, and hosts.parquet, which adds them up.

A registrable domain is what somebody can register below a public suffix (example.co.uk). Source: the public suffix
list, its private section included, as the package `publicsuffixlist` ships it each month: nothing is downloaded.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.releases import HOST_COUNTS_SCHEMA, HOSTS_SCHEMA
from dataset.publish.errors import PublishError
from dataset.store.store import Store

_HOST = r"^[a-z]+://(?:[^/?#@]*@)?(?P<host>\[[0-9a-f:.]+\]|[^/?#:]*)"
_MERGED_ROWS = 250_000
"""Domains that are added up at once when the tables of all files are merged."""


def hosts_of(urls: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return the host of each URL, in lower case -> (N,) string."""
    return pc.struct_field(pc.extract_regex(pc.utf8_lower(urls), _HOST), "host")


class HostCounts:
    """Counts the rows of one output file by registrable domain."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Count rows with the columns URL, TEXT, WIDTH, HEIGHT and punsafe."""
        hosts = pa.chunked_array([hosts_of(rows["URL"].combine_chunks())]).combine_chunks().dictionary_encode()
        domains = pa.array([registrable_domain(host) for host in hosts.dictionary.to_pylist()], pa.string())
        pixels = rows["WIDTH"].to_numpy().astype(np.int64) * rows["HEIGHT"].to_numpy()
        table = pa.table(
            {
                "domain": domains.take(hosts.indices),
                "rows": np.ones(len(rows), np.int64),
                "text_bytes": pc.cast(pc.binary_length(rows["TEXT"]), pa.int64()),
                "pixels": pixels,
                "punsafe_sum": pc.fill_null(pc.cast(rows["punsafe"], pa.float64()), 0.0),
                "punsafe_rows": pc.cast(pc.is_valid(rows["punsafe"]), pa.int64()),
            },
            schema=HOST_COUNTS_SCHEMA,
        )
        self._tables.append(_sum(table))

    def table(self) -> pa.Table:
        """Return the counts in the order of the domains."""
        table = _sum(pa.concat_tables(self._tables)) if self._tables else HOST_COUNTS_SCHEMA.empty_table()
        return table.sort_by("domain")


def merge_hosts(store: Store, paths: Sequence[str]) -> Iterator[pa.Table]:
    """Add up the sorted tables at `paths`, and yield the sums in the order of the domains, bounded pieces at a time.

    Raises: PublishError when one cannot be read.
    """
    cursors = [_Cursor(store, path) for path in paths]
    while cursors := [cursor for cursor in cursors if cursor.last is not None]:
        border = min(str(cursor.last) for cursor in cursors)
        yield _sum(pa.concat_tables([cursor.take_until(border) for cursor in cursors])).sort_by("domain")


class _Cursor:
    """Reads one table in pieces; `last` is the last domain of the piece at hand, None at the end."""

    def __init__(self, store: Store, path: str) -> None:
        self._batches = _read_batches(store, path)
        self._piece = HOST_COUNTS_SCHEMA.empty_table()
        self.last: str | None = None
        self._refill()

    def take_until(self, border: str) -> pa.Table:
        """Return the rows up to the domain `border`; there are none behind it in this piece that would be skipped."""
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
            for batch in pq.ParquetFile(file).iter_batches(max(1_000, _MERGED_ROWS // 64)):
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


@lru_cache(1)
def _suffixes() -> object:
    try:
        from publicsuffixlist import PublicSuffixList
    except ModuleNotFoundError as error:
        raise PublishError(f"{error.name} is not installed: install Shoal with its extra [release].") from error
    return PublicSuffixList()


@lru_cache(200_000)
def registrable_domain(host: str | None) -> str:
    """Return the registrable domain of a host; the host itself if it has none (an address, a public suffix)."""
    if not host:
        return ""
    if host.startswith("[") or host.rpartition(".")[2].isdigit():
        return host
    return str(_suffixes().privatesuffix(host) or host)  # type: ignore[attr-defined]  # untyped package
