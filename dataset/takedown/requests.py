"""Requests: filed by the operator, who has decided, or by anyone, whose request waits for a decision.

An accepted request's entries are in a deny list before its record is written, so what is on record is in force. The
entries of a request that waits are kept as they were given, because somebody has to look at them; with the decision
they are deleted, and what is left leads to nothing that was removed.
"""

import getpass
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from uuid import uuid4

import pyarrow as pa

from dataset.formats.deny_lists import write_deny_list
from dataset.formats.json_records import from_json, to_json
from dataset.formats.takedowns import (
    PENDING,
    REQUESTS,
    Entry,
    PendingEntries,
    RequestState,
    TakedownError,
    TakedownRequest,
    log_event,
    write_request,
)
from dataset.store.store import Store
from dataset.takedown.entries import deny_entries

MAX_REASON = 100
MAX_CONTACT = 1_000
MAX_PENDING_ENTRIES = 1_000
"""Of a request that anyone may file."""


def file_request(
    store: Store,
    entries: Iterable[Entry],
    reason: str,
    *,
    files: Iterable[pa.Table] = (),
    contact: str = "",
    by: str | None = None,
    pending: bool = False,
    now: datetime | None = None,
) -> TakedownRequest:
    """File a request, and unless it is `pending` put its entries into force; return its record.

    `files` are further entries of a deny list (kind, value), piece by piece; `by` is None for the person of this
    process.

    Raises: TakedownError when an entry is not of its kind, there is none, or the reason cannot be published;
        StoreError.
    """
    given = tuple(entries)
    check_reason(reason)
    if len(contact) > MAX_CONTACT:
        raise TakedownError(f"The contact has {len(contact):,} characters: give at most {MAX_CONTACT:,}.")
    time = now or datetime.now(UTC)
    request = TakedownRequest(
        id=f"{time:%Y%m%dT%H%M%S}-{uuid4().hex[:8]}",
        filed=time.isoformat(),
        filed_by=by or this_person(),
        reason=reason,
        contact=contact,
        entries=_counts(deny_entries(given)),
        state=RequestState.PENDING,
        decided="",
        decided_by="",
        note="",
        deny="",
    )
    if not pending:
        return _accept(store, request, chain([deny_entries(given)], files), by or this_person(), time, "")
    if not 0 < len(given) <= MAX_PENDING_ENTRIES:
        raise TakedownError(f"A request that waits for a decision names 1 to {MAX_PENDING_ENTRIES:,} URLs or hashes.")
    store.put(f"{PENDING}/{request.id}.json", to_json(PendingEntries(entries=given)))
    write_request(store, request)
    _log(store, request, "filed", request.filed_by, time)
    return request


def list_requests(store: Store, *, pending: bool = False) -> list[TakedownRequest]:
    """Return the requests, oldest first; only those that wait for a decision if `pending`.

    Raises: TakedownError when a record is damaged; StoreError.
    """
    requests = [_read(store, path) for path in store.list(REQUESTS) if path.endswith(".json")]
    return [request for request in requests if not pending or request.state is RequestState.PENDING]


def pending_entries(store: Store, request_id: str) -> tuple[Entry, ...]:
    """Return what a request names that waits for a decision.

    Raises: TakedownError when there is none of this id; StoreError.
    """
    path = f"{PENDING}/{request_id}.json"
    if not _is_id(request_id) or not store.exists(path):
        raise TakedownError(f"No request {request_id!r} waits for a decision: dataset takedown list --pending.")
    try:
        return from_json(PendingEntries, store.read(path)).entries
    except ValueError as error:
        raise TakedownError(f"{path} cannot be read ({error}): restore it, or refuse the request.") from error


def decide(
    store: Store, request_id: str, *, accept: bool, note: str = "", by: str | None = None, now: datetime | None = None
) -> TakedownRequest:
    """Accept or refuse a request that waits; return its record.

    Raises: TakedownError when no such request waits; StoreError. Called again, it goes on where it was.
    """
    entries = pending_entries(store, request_id)
    request = _read(store, f"{REQUESTS}/{request_id}.json")
    time, person = now or datetime.now(UTC), by or this_person()
    if accept and request.state is not RequestState.ACCEPTED:
        request = _accept(store, request, [deny_entries(entries)], person, time, note)
    elif not accept:
        request = replace(request, state=RequestState.REFUSED, decided=time.isoformat(), decided_by=person, note=note)
        write_request(store, request)
        _log(store, request, "refused", person, time)
    store.delete(f"{PENDING}/{request_id}.json")
    return request


def check_reason(reason: str) -> None:
    """Check that a reason may be published with a count.

    Raises: TakedownError.
    """
    if not 0 < len(reason.strip()) <= MAX_REASON or not reason.isprintable() or "://" in reason or "@" in reason:
        raise TakedownError(
            f"The reason cannot be used: give a word or two such as 'privacy', at most {MAX_REASON} characters, "
            "because it is published with a count. Whom it is about belongs into --contact."
        )


def this_person() -> str:
    """Return who runs this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _accept(
    store: Store,
    request: TakedownRequest,
    entries: Iterable[pa.Table],
    person: str,
    time: datetime,
    note: str,
) -> TakedownRequest:
    counts: Counter[str] = Counter()
    path = write_deny_list(store, _listed(entries, request.reason, time, counts), request=request.id)
    if not counts:
        store.delete(path)
        raise TakedownError("The request names nothing: give --url, --hash, --host, a digest or --file.")
    request = replace(
        request,
        entries=dict(sorted(counts.items())),
        state=RequestState.ACCEPTED,
        decided=time.isoformat(),
        decided_by=person,
        note=note,
        deny=path,
    )
    write_request(store, request)
    _log(store, request, "accepted", person, time)
    return request


def _listed(entries: Iterable[pa.Table], reason: str, time: datetime, counts: Counter[str]) -> Iterator[pa.Table]:
    """Yield rows of a deny list, and count them by kind."""
    for table in entries:
        if len(table):
            counts.update(_counts(table))
            reasons, times = pa.array([reason] * len(table)), pa.array([time] * len(table), pa.timestamp("us", "UTC"))
            yield table.append_column("reason", reasons).append_column("time", times)


def _counts(table: pa.Table) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in table["kind"].value_counts().to_pylist()}


def _read(store: Store, path: str) -> TakedownRequest:
    try:
        return from_json(TakedownRequest, store.read(path))
    except ValueError as error:
        raise TakedownError(f"{path} cannot be read ({error}): restore it from a copy.") from error


def _is_id(text: str) -> bool:
    return bool(text) and all(letter.isalnum() or letter == "-" for letter in text)


def _log(store: Store, request: TakedownRequest, event: str, person: str, time: datetime) -> None:
    facts = {"by": person, "reason": request.reason, "entries": dict(request.entries)}
    log_event(store, time, event, request.id, facts)
