"""`tracker serve`: the tracker's own duties, again and again until it is told to stop.

Each duty is idempotent and takes no lock that a worker waits for, so any number of these may run, or none for a while:
the swarm works on, its ledger only grows longer.
"""

import logging
import threading
import time
from dataclasses import dataclass

from tracker.accounts.balance import balance, note_pace
from tracker.accounts.ledger import fold
from tracker.accounts.pool import open_leaves
from tracker.database.database import Connection, answered_within, connect, query, translated
from tracker.duties.burnt_workers import drain_burnt
from tracker.errors import DatabaseDown, TrackerError
from tracker.storage.retention import retain

log = logging.getLogger("shoal.tracker")

ANSWER_SECONDS = 600.0  # for a round without the store; folding a day's ledger at once takes a minute


@dataclass(slots=True)
class Duties:
    """How the tracker's duties go; written by their thread, read by others."""

    every_seconds: float
    done_at: float | None = None
    """Unix time of the last round that went well."""
    error: str | None = None
    """Why the last round did not go well."""

    @property
    def patience_seconds(self) -> float:
        """After so long without a round something is wrong: a round may take a while, and a database restart."""
        return max(30.0, 5 * self.every_seconds)


def serve(url: str, stop: threading.Event, duties: Duties, *, store: str) -> None:
    """Do the duties every so often until `stop` is set; a database that is down is waited for."""
    connection: Connection | None = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = connect(url)
            tick(connection, store)
            duties.done_at, duties.error = time.time(), None
        except DatabaseDown as error:
            log.warning("tracker.waiting error=%r", str(error))
            duties.error = str(error)
            if connection is not None:
                connection.close()  # a standby's is still open
            connection = None
        stop.wait(duties.every_seconds)
    if connection is not None:
        connection.close()


def tick(connection: Connection, store: str) -> None:
    """One round: fold the ledger, open leaves where the last have filled, forget workers that are long gone and hosts
    that have long rested, drain workers whose address is burnt.

    Then delete the pictures whose time is over, and once a minute say whether the pool runs low.
    """
    with translated(), answered_within(connection, ANSWER_SECONDS):
        fold(connection)
        runs = [row["run_id"] for row in connection.execute("SELECT DISTINCT run_id FROM tracker.leaf")]
        for run_id in runs:
            for relation in open_leaves(connection, run_id):
                log.info("tracker.leaf_opened relation=%s", relation)
        connection.execute(query("prune_workers"))
        connection.execute(query("forget_rests"))
        for worker, reason in drain_burnt(connection):
            log.warning("tracker.burnt worker=%s reason=%r", worker, reason)
        if note_pace(connection) and (alarm := balance(connection).alarm):
            log.warning("tracker.pool_low said=%r", alarm)
    _retain(connection, store)


def _retain(connection: Connection, store: str) -> None:
    """Delete what is due; a store that is away or the wrong one keeps no other duty from being done."""
    try:
        gone = retain(connection, store)
    except DatabaseDown:
        raise
    except TrackerError as error:
        log.warning("tracker.shards_stay error=%r", str(error))
        return
    if gone.shards:
        log.info("tracker.tars_deleted shards=%d bytes=%d", gone.shards, gone.bytes)
