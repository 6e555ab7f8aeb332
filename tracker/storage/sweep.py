"""Sweep the store: find files that the manifest does not list, and delete those that no worker can still need.

Invariant: a file is deleted only if this tracker knows the lease (or the worker) in its name, the lease is not live,
the manifest does not list the file, and it has not changed for a given time; a hash list only if the log of changes
names it. Files with other names are counted, never touched, so a wrong SHOAL_STORE does no harm.

The listing is read first and the tracker asked afterwards, some thousand files at a time, so a job completed in between
is known by then. Memory holds one such batch and, for an object store, the listing of one folder.

Rejected: looking for the files that each failed lease could have left, which misses unfinished files. Unfinished
uploads to an object store do not appear in a listing: give the bucket a lifecycle rule that aborts them after a day.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from tracker.database.database import Connection, query, translated
from tracker.errors import TrackerError
from tracker.storage.open import open_existing_store

FILES_AT_ONCE = 5000
MIN_AGE = timedelta(hours=1)
"""A worker may be writing a file for this long; after half of it without progress it loses its lease."""

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
OUTPUT = re.compile(rf"(?P<stem>(?:.*/)?(?P<job>\d{{10}})-(?P<lease>{UUID}))(?P<ending>\.embeddings/.+|(?:\.[^/]*)?)")
SNAPSHOT = re.compile(rf"bloom/\d+-\d{{10}}-(?P<worker>{UUID})\.bloom")
HASH_LIST = re.compile(r"hash_lists/[0-9a-f]{32}\.hashes")
ASIDE = re.compile(r"(?:.*/)?(?:\.|probe-)[0-9a-f]{32}\.partial")

T = TypeVar("T")


class Reason(StrEnum):
    """Reason a file is in the store, as far as this tracker can tell."""

    LISTED = "listed"
    LIVE = "live"
    """Its lease is live, so the manifest may list it at any moment."""
    YOUNG = "young"
    FOREIGN = "foreign"
    """Its name is not one of Shoal's, or contains a lease of another tracker."""
    LEFT = "left"
    """Its lease has ended, and it is not listed."""
    ASIDE = "aside"
    """An unfinished file: its writer died, or the disk was full."""
    SNAPSHOT = "snapshot"
    """A snapshot of the Bloom filter that has been replaced."""
    HASH_LIST = "hash_list"
    """A hash list that was removed, or never came into force."""
    TAR = "tar"
    """A tar that the manifest has written off."""


DELETED = frozenset({Reason.LEFT, Reason.ASIDE, Reason.SNAPSHOT, Reason.HASH_LIST, Reason.TAR})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store; `changed_at` has a time zone."""

    path: str
    bytes: int
    changed_at: datetime


@dataclass(slots=True)
class Swept:
    """The files and bytes by reason, and the first of those to delete."""

    files: Counter[Reason] = field(default_factory=Counter)
    bytes: Counter[Reason] = field(default_factory=Counter)
    first: list[tuple[str, int, Reason]] = field(default_factory=list)

    @property
    def to_delete(self) -> tuple[int, int]:
        """Return how many files and bytes are, or would be, deleted."""
        return sum(self.files[why] for why in DELETED), sum(self.bytes[why] for why in DELETED)


def sweep(
    connection: Connection, uri: str, *, older_than: timedelta, delete: bool, show: int, on_files: Callable[[int], None]
) -> Swept:
    """Examine the whole store; `on_files` is called with the number of files so far.

    Raises:
        TrackerError: `older_than` is below MIN_AGE, or the store cannot be read.
    """
    if older_than < MIN_AGE:
        raise TrackerError(f"files younger than {MIN_AGE} may still be written: give --older-than 1h or more")
    store = open_existing_store(uri)
    before = datetime.now(UTC) - older_than
    swept = Swept()
    seen = 0
    try:
        for some in _pieces(list_files(store), FILES_AT_ONCE):
            reasons = judge(connection, some, before)
            for file in some:
                why = reasons[file.path]
                swept.files[why] += 1
                swept.bytes[why] += file.bytes
                if why in DELETED:
                    swept.first += [(file.path, file.bytes, why)] if len(swept.first) < show else []
                    if delete:
                        _delete(store, file.path)
            seen += len(some)
            on_files(seen)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise TrackerError(f"the store {uri} cannot be swept: {said}; check it and sweep again") from error
    return swept


def judge(connection: Connection, files: Iterable[StoredFile], before: datetime) -> dict[str, Reason]:
    """Return, by path, the reason for each file; unlisted files that changed after `before` are young."""
    reasons: dict[str, Reason] = {}
    outputs: dict[str, re.Match[str]] = {}
    snapshots: dict[str, str] = {}
    hash_lists: list[str] = []
    young: set[str] = set()
    for file in files:
        young.update([file.path] if file.changed_at >= before else [])
        if match := OUTPUT.fullmatch(file.path):
            outputs[file.path] = match
        elif match := SNAPSHOT.fullmatch(file.path):
            snapshots[file.path] = match["worker"]
        elif HASH_LIST.fullmatch(file.path):
            hash_lists.append(file.path)
        else:
            reasons[file.path] = Reason.ASIDE if ASIDE.fullmatch(file.path) else Reason.FOREIGN
    reasons |= _judge_outputs(connection, outputs)
    reasons |= _judge_snapshots(connection, snapshots)
    reasons |= _judge_hash_lists(connection, hash_lists)
    return {path: Reason.YOUNG if why in DELETED and path in young else why for path, why in reasons.items()}


def list_files(store: pafs.SubTreeFileSystem) -> Iterator[StoredFile]:
    """Yield every file of the store, in no particular order."""
    if isinstance(store.base_fs, pafs.LocalFileSystem):
        yield from _walk_folder(Path(store.base_path), "")
    else:
        yield from _walk_objects(store, "")


def _walk_folder(root: Path, folder: str) -> Iterator[StoredFile]:
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk_folder(root, f"{path}/")
                elif entry.is_file(follow_symlinks=False):
                    told = entry.stat(follow_symlinks=False)
                    yield StoredFile(path, told.st_size, datetime.fromtimestamp(told.st_mtime, UTC))
            except FileNotFoundError:
                continue  # renamed or deleted meanwhile


def _walk_objects(store: pafs.FileSystem, folder: str) -> Iterator[StoredFile]:
    listing = store.get_file_info(pafs.FileSelector(folder, recursive=False))
    listing.reverse()
    while listing:
        info = listing.pop()  # popped, so that memory is freed while the listing is read
        if info.type == pafs.FileType.Directory:
            yield from _walk_objects(store, info.path)
        elif info.type == pafs.FileType.File:
            yield StoredFile(info.path, info.size, info.mtime)


def _judge_outputs(connection: Connection, outputs: dict[str, re.Match[str]]) -> dict[str, Reason]:
    """Judge files named after job and lease, which are listed by stem, or (packs) by stem and slot."""
    stems = {stem for match in outputs.values() for stem in _stems(match)}
    leases = {match["lease"] for match in outputs.values()}
    values = {"stems": list(stems), "leases": list(leases)}
    with translated():
        known = {row["name"]: row["why"] for row in connection.execute(query("sweep_known"), values)}
    return {path: _why(path, match, known) for path, match in outputs.items()}


def _why(path: str, match: re.Match[str], known: dict[str, str]) -> Reason:
    for stem in _stems(match):
        if stem in known:
            is_given_up = known[stem] == "deleted" and path == f"{stem}.tar"
            return Reason.TAR if is_given_up else Reason.LISTED
    return {"live": Reason.LIVE, f"ended {int(match['job'])}": Reason.LEFT}.get(
        known.get(match["lease"], ""), Reason.FOREIGN
    )


def _stems(match: re.Match[str]) -> tuple[str, ...]:
    slot = match["ending"].split(".")[1:2]
    return (match["stem"], *(f"{match['stem']}.{number}" for number in slot if number.isdecimal()))


def _judge_snapshots(connection: Connection, snapshots: dict[str, str]) -> dict[str, Reason]:
    if not snapshots:
        return {}
    values = {"paths": list(snapshots), "workers": list(set(snapshots.values()))}
    with translated():
        known = {row["name"]: row["why"] for row in connection.execute(query("sweep_snapshots"), values)}
    return {
        path: Reason.LISTED if path in known else Reason.SNAPSHOT if worker in known else Reason.FOREIGN
        for path, worker in snapshots.items()
    }


def _judge_hash_lists(connection: Connection, paths: list[str]) -> dict[str, Reason]:
    if not paths:
        return {}
    with translated():
        rows = connection.execute(query("sweep_hash_lists"), {"paths": paths}).fetchall()
    known = {row["name"] for row in rows}
    listed = {row["name"] for row in rows if row["why"] == "listed"}
    return {
        path: Reason.LISTED if path in listed else Reason.HASH_LIST if path in known else Reason.FOREIGN
        for path in paths
    }


def _delete(store: pafs.FileSystem, path: str) -> None:
    try:
        store.delete_file(path)
    except FileNotFoundError:
        return  # another sweep has deleted it


def _pieces(files: Iterator[T], size: int) -> Iterator[list[T]]:
    while some := list(islice(files, size)):
        yield some
