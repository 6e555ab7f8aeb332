"""`dataset takedown verify`: decodes every file that may have a copy of a removed row, and proves that none has.

    release         every file that had a removed row has none of its ids, and is on no deny list
    crawl           shards, tars, packs, parts and embeddings that the removed rows came from have none of their keys
    derived         side tables, consolidated embeddings and indexes have none of their ids
    older versions  no file of a build over an older MAJOR version is left, in use or not
    checksums       files of the release are those that its record and SHA256SUMS list

With `everything`, all files of the release and all outputs of its crawls are decoded and compared with the deny lists.
What cannot be proven is reported as open: copies that no record names, history that a hub keeps, files of unfinished
work, links that wait in a database.
"""

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dataset.errors import DatasetError
from dataset.formats.releases import open_release
from dataset.formats.takedowns import TARGETS_SCHEMA, read_applied, removed_path
from dataset.publish.deny import DenyRules
from dataset.stats.threads import map_in_order
from dataset.store.store import Store
from dataset.takedown.checks import FileCheck
from dataset.takedown.indexes import index_checks
from dataset.takedown.open_items import open_items
from dataset.takedown.stale import stale_checks
from dataset.takedown.verify_crawl import crawl_checks
from dataset.takedown.verify_release import derived_checks, release_checks

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What verify found: sentences, each of which names a file."""

    release: str
    version: str
    rows: int
    """Rows that were removed in all versions."""
    files: int
    """Files that were decoded."""
    bytes: int
    leftovers: Sequence[str]
    """Files that still have something of a removed row."""
    open: Sequence[str]
    """What could not be proven, and what to do about it."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.leftovers


def verify_takedowns(
    store: Store,
    name: str,
    *,
    everything: bool = False,
    threads: int = 1,
    on_cost: Callable[[int, int], None] = lambda *_: None,
    on_progress: Progress = lambda *_: None,
) -> Verified:
    """Look for what was removed from a release; with `everything`, in all its files and all outputs of its crawls.

    `on_cost` is called with the files and bytes that will be decoded, before the first one is.

    Raises: TakedownError when takedowns are not applied to the end; ReleaseError, DenyListError, StoreError.
    """
    release = open_release(store, name)
    applied = read_applied(store, name)
    targets = _all_targets(store, name)
    rules = {reason: one for reason, one in DenyRules.load_by_reason(store, applied.deny).items() if one.kinds}
    ids = targets["id"].drop_null().to_numpy()
    jobs = list(release_checks(release, ids, rules, everything=everything))
    jobs += derived_checks(release, ids)
    jobs += index_checks(release, ids)
    jobs += stale_checks(release)
    jobs += crawl_checks(release, targets, rules, everything=everything)
    on_cost(len(jobs), sum(job.size for job in jobs))
    leftovers: list[str] = []
    for done, found in enumerate(map_in_order(_run, jobs, threads), 1):
        leftovers += found
        on_progress("verifying", done, len(jobs))
    return Verified(
        release=name,
        version=release.record.version,
        rows=len(ids),
        files=len(jobs),
        bytes=sum(job.size for job in jobs),
        leftovers=leftovers,
        open=list(open_items(store, release, applied, everything=everything)),
    )


def _run(job: FileCheck) -> list[str]:
    try:
        return list(job.check())
    except (DatasetError, OSError, ValueError, KeyError, pa.ArrowException, tarfile.TarError) as error:
        return [f"{job.path} cannot be read ({' '.join(str(error).split())}), so it may have anything."]


def _all_targets(store: Store, name: str) -> pa.Table:
    """Return the rows that were removed in all versions."""
    tables = [store.read_table(removed_path(name, one.time)) for one in read_applied(store, name).versions]
    return pa.concat_tables([TARGETS_SCHEMA.empty_table(), *tables]).sort_by("id")
