"""The plan of an apply, and its locks: what is fixed before the first row is looked at.

    takedowns/applying/NAME/record.json   the release's record as it was
    takedowns/applying/NAME/plan.json     the lists that are applied, the next version, the time; from here on it is at
                                          work, and publish makes no version of the release
    takedowns/applying/NAME/{phase}/      what the units found and wrote

publish notes `publishing/NAME/recording` while it makes a version. Each side writes its own note before it looks for
the other's, so at least one of them sees the other.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset import strict_json
from dataset.formats.deny_lists import list_deny_files
from dataset.formats.json_records import from_json, to_json
from dataset.formats.releases import Release, open_release, publish_is_recording, read_record, release_folder
from dataset.formats.takedowns import TakedownError, applying_folder, applying_plan, found_folder, read_applied
from dataset.store.lock import locked
from dataset.store.store import Store

Integers = npt.NDArray[np.int64]

_RECORD = "record.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The content of plan.json."""

    name: str
    before: str
    version: str
    time: str
    deny: tuple[str, ...]
    """The lists that are applied."""
    applied: tuple[str, ...]
    """Lists that were applied before."""
    again: bool
    """Whether what was removed before is looked for once more in what was derived since."""
    everything: bool
    """Whether rows of the crawls that the release does not have are compared, too."""


@dataclass(frozen=True, slots=True)
class Work:
    """An apply under way; `release` is as it was when the plan was made."""

    store: Store
    release: Release
    plan: Plan

    def path(self, relative: str) -> str:
        """Return the path in the store of a file of the work."""
        return f"{applying_folder(self.plan.name)}/{relative}"

    def found_path(self, at: int) -> str:
        """Return the path of what was found in data file `at`."""
        return f"{found_folder(self.plan.name)}/{at:06d}.parquet"

    @property
    def time(self) -> datetime:
        """When the plan was made; everything that is written of this apply says so."""
        return datetime.fromisoformat(self.plan.time)

    def once(self, marker: str, do: Callable[[], Any]) -> Any:
        """Do a unit of work unless its marker is there; return what the marker says."""
        path = self.path(marker)
        if not self.store.exists(path):
            self.store.put(path, strict_json.dumps(do()).encode())
        return json.loads(self.store.read(path))


@dataclass(frozen=True, slots=True)
class Removed:
    """Ids, in order, that are removed from what was derived of a release: `new` by this apply, others before.

    `version` is the release's without them.
    """

    ids: Integers
    new: Integers
    version: str

    def between(self, first: int, end: int) -> "Removed":
        """Return the ids from `first` to below `end`."""
        ids, new = (some[slice(*np.searchsorted(some, (first, end)))] for some in (self.ids, self.new))
        return Removed(ids, new, self.version)


def open_work(
    store: Store, name: str, *, again: bool = False, everything: bool = False, now: datetime | None = None
) -> Work | None:
    """Go on with the apply that was begun, or plan one; None if every deny list was applied to the release.

    `again` also compares every row with the lists that were applied before, `everything` rows of the crawls that the
    release does not have.

    Raises: TakedownError when a publish is making a version; ReleaseError when there is no such release; StoreError.
    """
    work = load_work(store, name)
    if work is not None:
        return work
    release = open_release(store, name)
    delete_work(store, name)  # what a call left that was ended while it deleted its work
    applied = read_applied(store, name).deny
    lists = [path for path in list_deny_files(store) if again or path not in applied]
    if not lists:
        return None
    plan = Plan(
        name=name,
        before=release.record.version,
        version=f"{int(release.record.version.partition('.')[0]) + 1}.0.0",
        time=(now or datetime.now(UTC)).isoformat(),
        deny=tuple(lists),
        applied=tuple(applied),
        again=again,
        everything=everything,
    )
    store.put(f"{applying_folder(name)}/{_RECORD}", release.record.to_json())
    store.put(applying_plan(name), to_json(plan))
    with locked(store, release.folder):
        pass  # who checked that there is no plan has now written the record
    if publish_is_recording(store, name) or open_release(store, name).record.version != plan.before:
        delete_work(store, name)
        raise TakedownError(
            f"A publish of {name} is making a version just now: apply again when it has ended; if it was killed, "
            "repeat the call of publish first."
        )
    return Work(store, release, plan)


def load_work(store: Store, name: str) -> Work | None:
    """Open the work of an unfinished apply.

    Raises: TakedownError when its plan is damaged; StoreError.
    """
    folder = release_folder(name)
    if not store.exists(applying_plan(name)):
        return None
    try:
        plan = from_json(Plan, store.read(applying_plan(name)))
        record = read_record(store.read(f"{applying_folder(name)}/{_RECORD}"), _RECORD)
    except ValueError as error:
        raise TakedownError(
            f"{applying_plan(name)} is not a plan of this Shoal ({error}): finish with the Shoal that began."
        ) from error
    return Work(store, Release(store, folder, record), plan)


def delete_work(store: Store, name: str) -> None:
    """Delete the work of an apply, its plan first: without one the release is free, and what is left means nothing."""
    store.delete(applying_plan(name))
    for path in store.list(applying_folder(name)):
        store.delete(path)
