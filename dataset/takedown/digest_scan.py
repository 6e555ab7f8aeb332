"""`dataset takedown scan`: rows that only an md5, a sha1 or a PDQ names are found, and hidden from then on.

    takedowns/scanned/NAME/0000/plan.json         the lists, and the data files of the release at that time
    takedowns/scanned/NAME/0000/000000.parquet    the rows of a data file that they name: id, reason

select and search read these files (`dataset.takedown.screen`, `dataset.search.screen`). A scan that was ended goes on
where it was; a list that comes later is a scan of its own. Rows that are published later need none, because publish
refuses what a list names. An apply deletes the scans of its lists.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dataset.formats.deny_lists import DenyKind, list_deny_files
from dataset.formats.json_records import from_json, to_json
from dataset.formats.releases import Release, open_release
from dataset.formats.takedowns import TakedownError, read_applied, scans_folder
from dataset.publish.deny import DenyRules
from dataset.stats.threads import map_in_order
from dataset.store.store import Store
from dataset.takedown.requests import list_requests
from dataset.takedown.scan import Companions, data_files, scan_file

SCANNED = frozenset({DenyKind.MD5, DenyKind.SHA1, DenyKind.PDQ})
"""Kinds that select and search do not compare with each row: the columns are private, or the comparison takes long."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPlan:
    """The content of plan.json."""

    deny: tuple[str, ...]
    files: tuple[str, ...]
    """Data files by their paths in the release."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan, finished or not; `folder` is in the store."""

    store: Store
    folder: str
    plan: ScanPlan

    @property
    def left(self) -> list[int]:
        """The numbers of the data files that were not scanned yet."""
        done = set(self.store.list(self.folder))
        return [at for at in range(len(self.plan.files)) if self.path(at) not in done]

    def path(self, at: int) -> str:
        """Return the path in the store of what was found in data file `at`."""
        return f"{self.folder}/{at:06d}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What a call did."""

    name: str
    lists: int
    files: int
    rows: int
    """Rows that its scans hide."""


def scan_digests(
    store: Store, name: str, *, threads: int = 1, on_progress: Progress = lambda *_: None
) -> Scanned | None:
    """Scan a release for the md5, sha1 and PDQ of lists that were neither scanned nor applied; None if there is none.

    Raises: TakedownError when a file cannot be read; ReleaseError, DenyListError, StoreError.
    """
    release = open_release(store, name)
    lists = lists_to_scan(store, name)
    if lists:
        _begin(release, lists)
    scans = [scan for scan in read_scans(store, name) if lists or scan.left]
    if not scans:
        return None
    files, rows = 0, 0
    for scan in scans:
        files += len(scan.left)
        _run(release, scan, threads, on_progress)
        rows += sum(len(store.read_table(scan.path(at), ["id"])) for at in range(len(scan.plan.files)))
    return Scanned(name=name, lists=sum(len(scan.plan.deny) for scan in scans), files=files, rows=rows)


def read_scans(store: Store, name: str) -> list[Scan]:
    """Return the scans of a release, oldest first.

    Raises: TakedownError when a plan is damaged; StoreError.
    """
    root = scans_folder(name)
    return [_read(store, path) for path in store.list(root) if path.endswith("/plan.json")]


def lists_to_scan(store: Store, name: str) -> list[str]:
    """Return the deny lists that may have an md5, a sha1 or a PDQ and were neither scanned nor applied.

    Raises: TakedownError when a record is damaged; StoreError.
    """
    known = {path for scan in read_scans(store, name) for path in scan.plan.deny} | set(read_applied(store, name).deny)
    left = [path for path in list_deny_files(store) if path not in known]
    without = {one.deny for one in list_requests(store) if left and not SCANNED & set(one.entries)}
    return [path for path in left if path not in without]


def delete_scans(store: Store, name: str, applied: Sequence[str]) -> None:
    """Delete the scans whose lists were all applied to a release."""
    for scan in read_scans(store, name):
        if set(scan.plan.deny) <= set(applied):
            for path in store.list(scan.folder):
                store.delete(path)


def _begin(release: Release, lists: Sequence[str]) -> None:
    store, name = release.store, release.record.name
    files = tuple(file.path for file in data_files(release))
    numbers = [int(scan.folder.rpartition("/")[2]) for scan in read_scans(store, name)]
    plan = ScanPlan(deny=tuple(lists), files=files if _rules(store, lists) else ())
    store.put(f"{scans_folder(name)}/{max(numbers, default=-1) + 1:04d}/plan.json", to_json(plan))


def _run(release: Release, scan: Scan, threads: int, on_progress: Progress) -> None:
    left, total = scan.left, len(scan.plan.files)
    if not left:
        return
    rules, companions = _rules(scan.store, scan.plan.deny), Companions(release)
    known = {file.path: file for file in release.record.files}
    done: Iterator[int] = map_in_order(
        lambda at: scan_file(release, rules, companions, known[scan.plan.files[at]], scan.path(at)), left, threads
    )
    for number, _ in enumerate(done, total - len(left) + 1):
        on_progress("scanning", number, total)


def _rules(store: Store, lists: Sequence[str]) -> Mapping[str, DenyRules]:
    found = {reason: one.only(SCANNED) for reason, one in DenyRules.load_by_reason(store, lists).items()}
    return {reason: one for reason, one in found.items() if one.kinds}


def _read(store: Store, path: str) -> Scan:
    try:
        return Scan(store, path.rpartition("/")[0], from_json(ScanPlan, store.read(path)))
    except ValueError as error:
        raise TakedownError(f"{path} cannot be read ({error}): delete its folder, and scan again.") from error
