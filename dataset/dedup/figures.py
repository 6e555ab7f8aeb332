"""The figures of the report on near-duplicates: what the search wrote about itself, and what its table says.

The table is read twice, a row group at a time: for the counts and the largest groups, then for members of these groups.
Memory does not grow with the release.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset.dedup.errors import DedupError
from dataset.dedup.explain import read_options
from dataset.formats.duplicates import KINDS, NAME, PLANT, REPORT
from dataset.formats.releases import Release
from dataset.publish.hosts import hosts_of
from dataset.select.candidates import priorities
from dataset.side_tables.rows import ReleaseRows, RowGroup
from dataset.stats.threads import map_in_order

Integers = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

BIN = 0.005
"""Width of the cosine's bins."""
TOP_GROUPS, SHOWN_MEMBERS, TOP_HOSTS = 24, 6, 14
_SAMPLED_MEMBERS = 1_000
"""Of each of the largest groups, of which some at the quantiles of the cosine are shown."""
_HOSTS_KEPT = 65_536


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a group that is shown."""

    id: int
    cosine: float


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """One of the largest groups."""

    size: int
    representative: int
    hosts: int
    caption: str
    url: str
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """The rows of a batch: what the search changed with it."""

    batch: str
    rows: int
    representatives: int
    of_earlier: int
    """Members that a row of an earlier batch represents."""


@dataclass(frozen=True, slots=True)
class HostCounts:
    """The rows of a host that another row represents."""

    host: str
    members: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that the report shows."""

    search: dict[str, Any]
    """What `find` wrote."""
    planted: dict[str, Any] | None
    """What `plant` wrote."""
    without_embedding: int
    cosines: dict[str, int]
    """Members by the lower edge of the cosine's bin; equal pictures and equal embeddings are not among them."""
    rows_by_size: dict[str, int]
    """Rows in groups by the power of two that is the group's lowest size."""
    largest: tuple[Group, ...]
    hosts: tuple[HostCounts, ...]
    batches: tuple[BatchCounts, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return asdict(self)


@dataclass(slots=True)
class _Counted:
    """One row group."""

    batch: str
    without: int
    kinds: Counter[str]
    of_earlier: int
    cosines: Counter[int]
    sizes: Counter[int]
    largest: list[Group]
    hosts: Counter[str]


def gather(release: Release, *, threads: int = 1, on_progress: Progress = lambda *_: None) -> Figures:
    """Read the figures of a release.

    Raises: DedupError when it has no table, or one of another version; StoreError.
    """
    read_options(release)
    rows = ReleaseRows.open(release)
    table = rows.tables.get(NAME)
    if table is None or table.version != release.record.version:
        raise DedupError(
            f"The side table {NAME} is not of {release.record.name} {release.record.version}: run dataset dedup again."
        )
    firsts = {batch.name: min(one.first_id for one in batch.subsets.values()) for batch in release.record.batches}
    groups = list(rows.row_groups())
    without, kinds, cosines, sizes, hosts = (
        0,
        defaultdict[str, Counter[str]](Counter),
        Counter[int](),
        Counter[int](),
        Counter[str](),
    )
    earlier, largest = Counter[str](), list[Group]()
    counted = map_in_order(lambda group: _count(rows, group, firsts[group.file.batch]), groups, threads)
    for done, one in enumerate(counted, 1):
        without += one.without
        kinds[one.batch] += one.kinds
        earlier[one.batch] += one.of_earlier
        cosines += one.cosines
        sizes += one.sizes
        hosts += one.hosts
        if len(hosts) > 2 * _HOSTS_KEPT:
            hosts = Counter(dict(hosts.most_common(_HOSTS_KEPT)))
        largest = heapq.nlargest(TOP_GROUPS, [*largest, *one.largest])
        on_progress("counting", done, len(groups))
    return Figures(
        search=json.loads(release.store.read(release.path(REPORT))),
        planted=_read_planted(release),
        without_embedding=without,
        cosines={f"{at * BIN:.3f}": count for at, count in sorted(cosines.items())},
        rows_by_size={str(size): count for size, count in sorted(sizes.items())},
        largest=_with_members(rows, largest, threads, on_progress),
        hosts=tuple(HostCounts(host, count) for host, count in sorted(hosts.items(), key=_by_count)[:TOP_HOSTS]),
        batches=tuple(
            BatchCounts(batch.name, kinds[batch.name].total(), kinds[batch.name][KINDS[0]], earlier[batch.name])
            for batch in release.record.batches
        ),
    )


def _by_count(one: tuple[str, int]) -> tuple[int, str]:
    return -one[1], one[0]


def _read_planted(release: Release) -> dict[str, Any] | None:
    """Return the results of planted copies; None if they are of other options or were not measured."""
    path = release.path(PLANT)
    if not release.store.exists(path):
        return None
    planted: dict[str, Any] = json.loads(release.store.read(path))
    searched = json.loads(release.store.read(release.path(REPORT)))
    return planted if planted["options"] == searched["options"] else None


def _count(rows: ReleaseRows, group: RowGroup, first_of_batch: int) -> _Counted:
    names = ("representative", "group_size", "cosine", "kind", "hosts", "top_caption")
    table = rows.read(group, ["id", "URL", *(f"{NAME}.{name}" for name in names)])
    kind = np.array(table[f"{NAME}.kind"].to_pylist(), object)
    searched = kind != None  # noqa: E711  # elementwise
    table = table.filter(searched.astype(bool))
    kind = kind[searched]
    ids, representative = table["id"].to_numpy(), table[f"{NAME}.representative"].to_numpy()
    size, cosine = table[f"{NAME}.group_size"].to_numpy(), table[f"{NAME}.cosine"].to_numpy()
    compared = np.isin(kind, KINDS[3:])
    bins, counts = np.unique(np.floor(cosine[compared] / BIN + 1e-4).astype(int), return_counts=True)
    lowest, of_size = np.unique(2 ** np.floor(np.log2(size)).astype(np.int64), return_counts=True)
    members = np.flatnonzero(ids != representative)
    hosts = hosts_of(table["URL"].take(members)) if len(members) else None
    leaders = np.flatnonzero((ids == representative) & (size > 1))
    leaders = leaders[np.lexsort((-ids[leaders], -size[leaders]))][:TOP_GROUPS]
    shown = table.take(leaders).to_pylist()
    return _Counted(
        batch=group.file.batch,
        without=int((~searched).sum()),
        kinds=Counter(kind.tolist()),
        of_earlier=int((representative < first_of_batch).sum()),
        cosines=Counter(dict(zip(bins.tolist(), counts.tolist(), strict=True))),
        sizes=Counter(dict(zip(lowest.tolist(), of_size.tolist(), strict=True))),
        largest=[
            Group(row[f"{NAME}.group_size"], row["id"], row[f"{NAME}.hosts"], row[f"{NAME}.top_caption"], row["URL"])
            for row in shown
        ],
        hosts=Counter(hosts.names[number] for number in hosts.numbers.tolist()) if hosts else Counter(),
    )


def _with_members(rows: ReleaseRows, largest: list[Group], threads: int, on_progress: Progress) -> tuple[Group, ...]:
    """Add some members to each group, at the quantiles of their cosines."""
    wanted = np.array(sorted(one.representative for one in largest), np.int64)
    found: dict[int, tuple[Integers, npt.NDArray[np.float32]]] = {
        one: (np.empty(0, np.int64), np.empty(0, np.float32)) for one in wanted.tolist()
    }

    def read(group: RowGroup) -> tuple[Integers, Integers, npt.NDArray[np.float32]]:
        table = rows.read(group, ["id", f"{NAME}.representative", f"{NAME}.cosine"])
        representative = table[f"{NAME}.representative"].fill_null(-1).to_numpy()
        ids, cosine = table["id"].to_numpy(), table[f"{NAME}.cosine"].fill_null(0).to_numpy()
        mine = np.isin(representative, wanted) & (ids != representative)
        return ids[mine], representative[mine], cosine[mine]

    groups = list(rows.row_groups()) if largest else []
    for done, (ids, representative, cosine) in enumerate(map_in_order(read, groups, threads), 1):
        for one in np.unique(representative).tolist():
            mine = representative == one
            known_ids, known_cosines = found[one]
            all_ids = np.concatenate([known_ids, ids[mine]])
            all_cosines = np.concatenate([known_cosines, cosine[mine]])
            lowest = np.argsort(priorities(all_ids, 0))[:_SAMPLED_MEMBERS]
            found[one] = all_ids[lowest], all_cosines[lowest]
        on_progress("members", done, len(groups))
    return tuple(
        Group(one.size, one.representative, one.hosts, one.caption, one.url, _chosen(*found[one.representative]))
        for one in largest
    )


def _chosen(ids: Integers, cosines: npt.NDArray[np.float32]) -> tuple[Member, ...]:
    order = np.lexsort((ids, -cosines))
    places = np.unique(np.linspace(0, len(order) - 1, min(SHOWN_MEMBERS, len(order))).round().astype(int))
    return tuple(Member(int(ids[at]), round(float(cosines[at]), 4)) for at in order[places])
