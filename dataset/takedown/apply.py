"""`dataset takedown apply`: the phases of a plan, each of units that leave a marker when they are done.

    scan: a data file ─▶ indexes ─▶ crawl: an output ─▶ release: a touched data file
                      ─▶ side tables ─▶ embeddings ─▶ record ─▶ files of older versions

Units are shared by threads: numpy, Arrow and hashlib release the GIL for nearly all of the time.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.releases import open_release
from dataset.formats.takedowns import read_applied, removed_path
from dataset.publish.deny import DenyRules
from dataset.stats.threads import map_in_order
from dataset.store.store import Store
from dataset.takedown.crawl_files import CrawlUnit, plan_units, remove_from
from dataset.takedown.crawl_rows import crawl_scans, scan_crawl
from dataset.takedown.digest_scan import delete_scans
from dataset.takedown.embeddings_files import remove_from_embeddings
from dataset.takedown.indexes import remove_from_indexes
from dataset.takedown.plan import Removed, Work, delete_work, open_work
from dataset.takedown.provenance import read_targets, write_targets
from dataset.takedown.record import write_applied, write_version
from dataset.takedown.release_files import rewrite_file
from dataset.takedown.scan import Companions, data_files, scan_file
from dataset.takedown.side_files import remove_from_side_tables
from dataset.takedown.stale import stale_files

Integers = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedTakedowns:
    """What an apply did."""

    name: str
    version: str
    """The live version: the one before, if no row was removed."""
    removed: Mapping[str, int]
    """Rows by reason."""
    lists: int
    """Deny lists that were applied."""
    bytes: int
    """Bytes of the files that were rewritten."""


def apply_takedowns(
    store: Store,
    name: str,
    *,
    again: bool = False,
    everything: bool = False,
    threads: int = 1,
    now: datetime | None = None,
    on_progress: Progress = lambda *_: None,
) -> AppliedTakedowns | None:
    """Remove what deny lists name from a release, its crawls and all that was derived from it; None if nothing is new.

    `again` compares every row with lists that were applied before, too, and removes what was brought back since;
    `everything` also reads all shards and packs of the release's crawls, for rows that it does not have.

    Raises: TakedownError, ReleaseError, DenyListError, ManifestError; StoreError when a store or the disk fails. Called
        again, it goes on where it was.
    """
    work = open_work(store, name, again=again, everything=everything, now=now)
    if work is None:
        return None
    files = data_files(work.release)
    rules = {reason: one for reason, one in DenyRules.load_by_reason(store, work.plan.deny).items() if one.kinds}
    companions = Companions(work.release)
    scanned = map_in_order(
        lambda at: scan_file(work.release, rules, companions, files[at], work.found_path(at)),
        range(len(files)),
        threads,
    )
    counts = []
    for done, count in enumerate(scanned, 1):
        counts.append(count)
        on_progress("scanning", done, len(files))
    if work.plan.everything:
        scans = list(crawl_scans(work.release))
        for done, _ in enumerate(map_in_order(lambda unit: scan_crawl(work, rules, unit), scans, threads), 1):
            on_progress("scanning crawls", done, len(scans))
    write_targets(work, len(files))
    targets = read_targets(work)
    published = targets.filter(targets["id"].is_valid())
    ids = published["id"].to_numpy()
    earlier = removed_before(store, name) if work.plan.again else np.empty(0, np.int64)
    version = work.plan.version if len(ids) else work.plan.before
    gone = Removed(np.union1d(ids, earlier), ids, version)
    total = remove_from_indexes(work, gone)  # first: what searches show goes at once
    total += _remove_from_crawls(work, targets, threads, on_progress)
    touched = [at for at, count in enumerate(counts) if count]

    def rewrite(at: int) -> list[dict[str, object]]:
        low, high = np.searchsorted(ids, (files[at].first_id, files[at].last_id + 1))
        said: list[dict[str, object]] = work.once(
            f"files/{at:06d}.json", lambda: rewrite_file(work.release, companions, files[at], ids[low:high])
        )
        return said

    entries: list[dict[str, object]] = []
    for done, some in enumerate(map_in_order(rewrite, touched, threads), 1):
        entries += some
        on_progress("rewriting", done, len(touched))
    total += sum(int(str(one["bytes"])) for one in entries)
    removed = dict(sorted(Counter(published["reason"].to_pylist()).items()))
    total += remove_from_side_tables(work, gone)
    total += remove_from_embeddings(work, gone)
    if removed:
        write_version(work, entries, removed)
    for path in stale_files(open_release(store, name)):
        store.delete(path)
    write_applied(work, targets, removed)
    delete_scans(store, name, (*work.plan.applied, *work.plan.deny))
    delete_work(store, name)
    return AppliedTakedowns(
        name=name,
        version=gone.version,
        removed=removed,
        lists=len(work.plan.deny),
        bytes=total,
    )


def removed_before(store: Store, name: str) -> Integers:
    """Return the ids of all rows that were removed from a release, in order -> (N,) int64."""
    paths = [removed_path(name, one.time) for one in read_applied(store, name).versions]
    ids = (store.read_table(path, ["id"])["id"].drop_null().to_numpy() for path in paths)
    return np.unique(np.concatenate([np.empty(0, np.int64), *ids]))


def _remove_from_crawls(work: Work, targets: pa.Table, threads: int, on_progress: Progress) -> int:
    """Remove rows from the outputs of their crawls; return the bytes that were written."""
    units = list(plan_units(work.release, targets))
    stores = {uri: work.release.input_store(uri) for uri in {unit.store for unit in units}}

    def remove(one: tuple[int, CrawlUnit]) -> int:
        at, unit = one
        return int(work.once(f"crawl/{at:06d}.json", lambda: remove_from(stores[unit.store], unit)))

    total = 0
    for done, written in enumerate(map_in_order(remove, list(enumerate(units)), threads), 1):
        total += written
        on_progress("crawls", done, len(units))
    return total
