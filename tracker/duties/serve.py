"""`tracker serve`: do the tracker's duties in rounds until told to stop.

Each duty is idempotent and takes no lock that a worker waits for. So several processes may do the duties at once. If no
process does them for a while, the swarm continues and only the ledger grows.
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
from tracker.duties.deny_lists import register_deny_lists
from tracker.errors import DatabaseDown, TrackerError
from tracker.storage.retention import retain

log = logging.getLogger("shoal.tracker")

ANSWER_SECONDS = 600.0  # the limit of a round, without the store; folding the ledger of a whole day takes a minute


@dataclass(slots=True)
class Duties:
    """The state of the tracker's duties; written by their thread, read by others."""

    every_seconds: float
    done_at: float | None = None
    """Unix time of the last successful round."""
    error: str | None = None
    """The error of the last round, if it failed."""

    @property
    def patience_seconds(self) -> float:
        """The time without a successful round after which the duties count as failing; a restart of the database may
        take a while.
        """
        return max(30.0, 5 * self.every_seconds)


def serve(url: str, stop: threading.Event, duties: Duties, *, store: str) -> None:
    """Do the duties in rounds until `stop` is set; wait for a database that is down."""
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
                connection.close()  # the connection to a standby is still open
            connection = None
        stop.wait(duties.every_seconds)
    if connection is not None:
        connection.close()


def tick(connection: Connection, store: str) -> None:
    """Do one round: fold the ledger, open leaves, forget dead workers and old rests, drain burnt workers, put new deny
    lists into force, and delete pictures whose time is over. Once a minute, log if the pool is low.
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
    _register_deny_lists(connection, store)
    _retain(connection, store)


def _register_deny_lists(connection: Connection, store: str) -> None:
    """Put new deny lists into force; a store that is down or wrong does not stop the other duties."""
    try:
        registered = register_deny_lists(connection, store)
    except DatabaseDown:
        raise
    except TrackerError as error:
        log.warning("tracker.deny_list_waits error=%r", str(error))
        return
    for one in registered:
        log.info("tracker.deny_list path=%s hosts=%d entries=%d", one.path, one.hosts, one.entries)


def _retain(connection: Connection, store: str) -> None:
    """Delete tars that are due; a store that is down or is the wrong one does not stop the other duties."""
    try:
        gone = retain(connection, store)
    except DatabaseDown:
        raise
    except TrackerError as error:
        log.warning("tracker.shards_stay error=%r", str(error))
        return
    if gone.shards:
        log.info("tracker.tars_deleted shards=%d bytes=%d", gone.shards, gone.bytes)
