"""`tracker serve`: the tracker's own duties, again and again until it is told to stop.

Each duty is idempotent and takes no lock that a worker waits for, so any number of these may run, or none for a while:
the swarm works on, its ledger only grows longer.
"""

import logging
import threading

from tracker.burnt import drain_burnt
from tracker.database import Connection, connect, query, translated
from tracker.errors import DatabaseDown
from tracker.ledger import fold
from tracker.pool import open_leaves

log = logging.getLogger("shoal.tracker")


def serve(url: str, stop: threading.Event, *, every_seconds: float) -> None:
    """Do the duties every so often until `stop` is set; a database that is down is waited for."""
    connection: Connection | None = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = connect(url)
            tick(connection)
        except DatabaseDown as error:
            log.warning("tracker.waiting error=%r", str(error))
            connection = None
        stop.wait(every_seconds)
    if connection is not None:
        connection.close()


def tick(connection: Connection) -> None:
    """One round: fold the ledger, open leaves where the last have filled, forget workers that are long gone and
    hosts that have long rested, drain workers whose address is burnt."""
    fold(connection)
    with translated():
        runs = [row["run_id"] for row in connection.execute("SELECT run_id FROM tracker.run")]
    for run_id in runs:
        for relation in open_leaves(connection, run_id):
            log.info("tracker.leaf_opened relation=%s", relation)
    with translated():
        connection.execute(query("prune_workers"))
        connection.execute(query("forget_rests"))
    for worker, reason in drain_burnt(connection):
        log.warning("tracker.burnt worker=%s reason=%r", worker, reason)
