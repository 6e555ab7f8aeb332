"""The most frequent registrable domains of a release, from the hosts.parquet that was published with it."""

import heapq
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.errors import said_by
from dataset.formats.releases import HOSTS, Release
from dataset.stats.listed import SHOWN
from dataset.stats.units import StatsError


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain with its rows, and the mean punsafe of those that have one; None if none has."""

    name: str
    rows: int
    mean_punsafe: float | None


def most_frequent_domains(release: Release) -> list[Domain]:
    """Return the SHOWN domains with the most rows, ties sorted by name; one row group is in memory at a time.

    Raises: StatsError when hosts.parquet is damaged; StoreError when it is missing.
    """
    best: list[tuple[int, str, Domain]] = []
    with release.store.open_input(release.path(HOSTS)) as source:
        try:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, ["domain", "rows", "punsafe"])
                top = table.take(pc.select_k_unstable(table, SHOWN, [("rows", "descending"), ("domain", "ascending")]))
                found = [Domain(row["domain"], row["rows"], row["punsafe"]) for row in top.to_pylist()]
                best = heapq.nsmallest(SHOWN, [*best, *((-each.rows, each.name, each) for each in found)])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise StatsError(f"{HOSTS} of the release is damaged ({said_by(error)}): publish it again.") from error
    return [domain for _, _, domain in best]
