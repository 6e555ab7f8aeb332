"""What is in force, what was applied to which release, and how far a scan or an apply is."""

from collections.abc import Sequence
from dataclasses import dataclass

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.releases import RECORD, FileKind, open_release
from dataset.formats.takedowns import PENDING, read_applied
from dataset.store.store import Store
from dataset.takedown.digest_scan import lists_to_scan, read_scans
from dataset.takedown.plan import load_work

PHASES = {"scanning": "found", "crawls": "crawl", "rewriting": "files"}
"""The phases of an apply whose progress is told, with the folders of their markers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseStatus:
    """A release, and the deny lists that were not applied to it yet."""

    name: str
    version: str
    lists_to_apply: int
    lists_to_scan: int
    """Lists whose md5, sha1 and PDQ hide nothing until a scan."""
    scanned: int
    """Data files that scans have compared, of `to_scan`."""
    to_scan: int
    applying: str | None
    """The phase of an unfinished apply; None if none is under way."""
    done: int
    of: int | None
    """Units of that phase; None when their number is not known before they are planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakedownStatus:
    """The state of all takedowns of a store."""

    lists: int
    pending: int
    """Requests that wait for a decision."""
    releases: Sequence[ReleaseStatus]


def release_names(store: Store) -> list[str]:
    """Return the names of the releases in a store."""
    paths = [path.split("/") for path in store.list("releases")]
    return sorted(path[1] for path in paths if len(path) == 3 and path[2] == RECORD)


def takedown_status(store: Store, names: Sequence[str] = ()) -> TakedownStatus:
    """Return the state of takedowns, of some releases or of all.

    Raises: ReleaseError when there is no such release; TakedownError when a record is damaged; StoreError.
    """
    lists = list_deny_files(store)
    return TakedownStatus(
        lists=len(lists),
        pending=sum(path.endswith(".json") for path in store.list(PENDING)),
        releases=[_of_release(store, name, lists) for name in names or release_names(store)],
    )


def _of_release(store: Store, name: str, lists: Sequence[str]) -> ReleaseStatus:
    release = open_release(store, name)
    applied = set(read_applied(store, name).deny)
    work = load_work(store, name)
    scans = read_scans(store, name)
    files = sum(len(scan.plan.files) for scan in scans)
    phase, done, of = None, 0, None
    if work is not None:
        total = sum(1 for _ in work.release.files(FileKind.DATA))
        counts = {name: len(store.list(work.path(folder))) for name, folder in PHASES.items()}
        phase = next((name for name in reversed(PHASES) if counts[name]), "scanning")
        done, of = counts[phase], total if phase == "scanning" else None
    return ReleaseStatus(
        name=name,
        version=release.record.version,
        lists_to_apply=sum(path not in applied for path in lists),
        lists_to_scan=len(lists_to_scan(store, name)),
        scanned=files - sum(len(scan.left) for scan in scans),
        to_scan=files,
        applying=phase,
        done=done,
        of=of,
    )
