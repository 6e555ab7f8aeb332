"""Takedowns: requests, the log of what was done, and the work on a release. All of it is private.

takedowns/requests/ID.json      a request: who asked when and why, how many entries of which kind, the decision
takedowns/pending/ID.json       the entries of a request that waits for a decision; deleted with it
takedowns/log/TIME-ID.json      an event: when, what, by whom, why, how many; never a URL, a hash or a host
takedowns/applied/NAME.json     the deny lists that were applied to the release NAME, and its versions made so
takedowns/applied/NAME/TIME.parquet      the rows that an apply removed: id, reason, and the files they were in
takedowns/scanned/NAME/NNNN/    a scan for md5, sha1 and PDQ: its plan.json, and the rows that it found by data file
takedowns/applying/NAME/        the work of an unfinished apply: plan.json, and what its units found and wrote
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import pyarrow as pa

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.formats.json_records import from_json, to_json
from dataset.store.store import Store

FOLDER = "takedowns"
REQUESTS = f"{FOLDER}/requests"
PENDING = f"{FOLDER}/pending"
LOG = f"{FOLDER}/log"


class TakedownError(DatasetError):
    """A request cannot be accepted, or a takedown cannot be applied or verified."""


class RequestState(StrEnum):
    """The state of a request."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    """Its entries are in a deny list."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakedownRequest:
    """A request; times are ISO 8601 in UTC, '' if the event has not happened."""

    id: str
    filed: str
    filed_by: str
    reason: str
    """A word or two, which may be published with a count: never whom or what it is about."""
    contact: str
    """Who asked, and where they can be answered; private."""
    entries: Mapping[str, int]
    """Counts by kind."""
    state: RequestState
    decided: str
    decided_by: str
    note: str
    deny: str
    """The path of its deny list, '' without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A value as it was given: a kind of entry, and a URL, hash, host or digest."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEntries:
    """The entries of a pending request, which the person who decides must see."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedVersion:
    """An apply that removed rows; `version` is the live one, which the apply made unless it removed rows only from
    crawls.
    """

    version: str
    time: str
    removed: Mapping[str, int]
    """Rows by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The deny lists that have been applied to a release: none of its rows is on them any more."""

    deny: tuple[str, ...]
    versions: tuple[AppliedVersion, ...]


FOUND_SCHEMA = pa.schema([("id", pa.int64()), ("reason", pa.string())])
"""Rows of one data file that are on a deny list."""

TARGETS_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),  # null: the release did not have the row
        ("reason", pa.string()),
        ("input", pa.int16()),  # this and the following columns are null if the file was deleted
        ("key", pa.int64()),
        ("shard", pa.string()),
        ("part", pa.string()),
        ("embeddings", pa.list_(pa.string())),  # the stems of outputs of `worker embed`
        ("pack", pa.string()),
        ("pack_row", pa.int32()),
    ]
)
"""The rows that are removed and where they came from; stems in the store of the input."""


def applying_folder(name: str) -> str:
    """Return the folder of an unfinished apply to a release."""
    return f"{FOLDER}/applying/{name}"


def applying_plan(name: str) -> str:
    """Return the path that exists while takedowns are applied to a release."""
    return f"{applying_folder(name)}/plan.json"


def found_folder(name: str) -> str:
    """Return the folder of the rows that an unfinished apply has found so far."""
    return f"{applying_folder(name)}/found"


def scans_folder(name: str) -> str:
    """Return the folder of a release's scans for md5, sha1 and PDQ."""
    return f"{FOLDER}/scanned/{name}"


def found_rows(store: Store, name: str) -> list[str]:
    """Return the paths of tables whose ids are hidden of a release: what scans and an unfinished apply have found.

    Raises: StoreError.
    """
    paths = [*store.list(scans_folder(name)), *store.list(found_folder(name))]
    return [path for path in paths if path.endswith(".parquet")]


def applied_path(name: str) -> str:
    """Return the path of the record of what was applied to a release."""
    return f"{FOLDER}/applied/{name}.json"


def removed_path(name: str, time: str) -> str:
    """Return the path of the rows that an apply to a release removed; `time` is the plan's."""
    return f"{FOLDER}/applied/{name}/{''.join(filter(str.isalnum, time))}.parquet"


def read_applied(store: Store, name: str) -> Applied:
    """Return the record of what was applied to a release.

    Raises: TakedownError when the record is damaged; StoreError.
    """
    path = applied_path(name)
    if not store.exists(path):
        return Applied(deny=(), versions=())
    try:
        return from_json(Applied, store.read(path))
    except ValueError as error:
        raise TakedownError(f"{path} cannot be read ({error}): delete it; apply then compares every row again.") from (
            error
        )


def log_event(store: Store, time: datetime, event: str, subject: str, facts: Mapping[str, object]) -> None:
    """Record an event in the log of takedowns.

    Raises: StoreError.
    """
    said = {"time": time.isoformat(), "event": event, "subject": subject, **facts}
    text = strict_json.dumps(said, ensure_ascii=False, indent=1) + "\n"
    store.put(f"{LOG}/{time:%Y%m%dT%H%M%S%f}-{subject}-{event}.json", text.encode())


def write_request(store: Store, request: TakedownRequest) -> None:
    """Write the record of a request.

    Raises: StoreError.
    """
    store.put(f"{REQUESTS}/{request.id}.json", to_json(request))
