"""Runs over a release: jobs, seeded by the admin, that index, deduplicate or tag the release.

Invariant: such a run is named `releases/NAME`, like the release's folder in the store. So a job's output lies in that
folder (tracker/functions/output_path.sql), the manifest lists it under the run, and no crawl can have the same name.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
from psycopg.types.json import Jsonb

from tracker.database.database import Connection, query, translated
from tracker.errors import TrackerError
from tracker.seeding.names import NAME
from tracker.storage.open import open_existing_store

FOLDER = "releases"
UNITS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class ReleaseRun:
    """A release's run, and its release.json, which lists the files to work on."""

    run_id: int
    run: str
    release: Mapping[str, Any]


def open_release_run(connection: Connection, store: str, name: str) -> ReleaseRun:
    """Return the run of a published release; the first call creates it.

    Raises:
        TrackerError: the store has no such release, or its release.json cannot be read.
    """
    if not NAME.fullmatch(name):
        raise TrackerError(f"{name!r} cannot be a release's name: give the name of a folder in {FOLDER}/ of the store")
    run = f"{FOLDER}/{name}"
    release = read_json(store, f"{run}/release.json")
    if release is None:
        raise TrackerError(f"the store {store} has no {run}/release.json: publish the release, or check SHOAL_STORE")
    with translated(), connection.transaction():
        connection.execute(query("insert_bare_run"), {"name": run})
        row = connection.execute("SELECT run_id FROM tracker.run WHERE name = %s", (run,)).fetchone()
    assert row is not None
    return ReleaseRun(row["run_id"], run, release)


def seed_units(connection: Connection, run_id: int, queue: str, payloads: Iterable[Mapping[str, Any]]) -> int:
    """Add a job for each payload and return how many are new.

    The value `unit` of a payload names its work within run and queue: a unit that the run has is left out.
    """
    left, new = iter(payloads), 0
    with translated(), connection.transaction():
        while some := [dict(payload) for payload in islice(left, UNITS_AT_ONCE)]:
            values = {"queue": queue, "run_id": run_id, "payloads": Jsonb(some)}
            new += connection.execute(query("seed_units"), values).rowcount
    return new


def delete_file(store: str, path: str) -> None:
    """Delete a file of the store, if there is one.

    Raises:
        TrackerError: it cannot be deleted.
    """
    try:
        open_existing_store(store).delete_file(path)
    except FileNotFoundError:
        return
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"cannot delete {path} in {store}: {error}; check the store and try again") from error


def read_json(store: str, path: str) -> Mapping[str, Any] | None:
    """Return the JSON object in a file of the store; None if there is no such file.

    Raises:
        TrackerError: it cannot be read.
    """
    try:
        with open_existing_store(store).open_input_file(path) as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TrackerError(f"cannot read {path} in {store}: {error}; write it again, or restore it") from error
    if not isinstance(found, dict):
        raise TrackerError(f"{path} in {store} is not a JSON object: write it again, or restore it")
    return found
