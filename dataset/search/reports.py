"""Reports: anyone asks for the removal of a row, which becomes a takedown request that waits for a decision."""

import json
from collections.abc import Mapping
from typing import Any

from dataset.formats.json_records import to_json
from dataset.formats.takedowns import Entry, TakedownError, TakedownRequest
from dataset.search.errors import SearchError
from dataset.store.store import Store
from dataset.takedown.requests import decide, file_request, list_requests, pending_entries

MOST_PENDING = 1_000
FILED_BY = "the search server"


class Reports:
    """The requests of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def file(self, row: Mapping[str, Any], reason: str, contact: str) -> str:
        """File a request to remove the pair and the URL of a row, and return its id.

        Raises: SearchError: 400 for a reason that cannot be used, 429 when too many requests wait.
        """
        if len(list_requests(self._store, pending=True)) >= MOST_PENDING:
            said = "Too many reports wait for a decision: try again in some days."
            raise SearchError(429, said, headers={"Retry-After": "86400"})
        kinds = {"url": row.get("url"), "hash": row.get("hash")}
        entries = [Entry(kind=kind, value=str(value)) for kind, value in kinds.items() if value is not None]
        try:
            return file_request(self._store, entries, reason, contact=contact, by=FILED_BY, pending=True).id
        except TakedownError as error:
            raise SearchError(400, str(error), field="reason") from error

    def pending(self) -> list[dict[str, Any]]:
        """Return the requests that wait, with what they name."""
        return [
            _as_json(request) | {"entries": [_entry_as_json(one) for one in pending_entries(self._store, request.id)]}
            for request in list_requests(self._store, pending=True)
        ]

    def decide(self, request: str, *, accept: bool, note: str) -> dict[str, Any]:
        """Accept a request, which hides what it names at once, or refuse it.

        Raises: SearchError (404) when no such request waits.
        """
        try:
            return _as_json(
                decide(self._store, request, accept=accept, note=note, by="an operator of the search server")
            )
        except TakedownError as error:
            raise SearchError(404, str(error)) from error


def _entry_as_json(entry: Entry) -> dict[str, str]:
    """Return an entry as a JSON object."""
    return {"kind": entry.kind, "value": entry.value}


def _as_json(request: TakedownRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_json(request))
    return found
