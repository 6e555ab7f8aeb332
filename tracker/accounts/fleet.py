"""The workers as the admin sees them, and how one is sent away.

Drain: it gets nothing new, ends what it holds and leaves. Evict: what it holds is ready for others at once, and
whatever it still sends is refused. An eviction locks the worker's row first, as a claim does, so that a claim under way
is either seen here, or sees that its worker is gone.
"""

from collections.abc import Sequence
from uuid import UUID

from tracker.accounts.changes import record
from tracker.database.database import Connection, Row, query, translated
from tracker.errors import TrackerError

LOCK = "SELECT worker_id FROM tracker.worker WHERE worker_id = ANY (%s) ORDER BY worker_id FOR NO KEY UPDATE"
# Of a worker's id nobody types more than its first letters, and with fewer it is too easily another's.
FEWEST_LETTERS = 4


def workers(connection: Connection, *, kind: str | None = None) -> list[Row]:
    """Those that have not left, of a kind or all; keys as `tracker workers --json` prints them."""
    with translated():
        rows = connection.execute(query("fleet")).fetchall()
    return [row for row in rows if kind in {None, row["kind"]}]


def find(connection: Connection, name: str) -> list[Row]:
    """The worker whose id begins so, or all of a host or an enrolled machine.

    Raises:
        TrackerError: there is none, or more than one id begins so.
    """
    known = workers(connection)
    if together := [row for row in known if name in {row["host"], row["machine"]}]:
        return together
    found = [row for row in known if len(name) >= FEWEST_LETTERS and row["worker"].startswith(name.lower())]
    if not found:
        raise TrackerError(f"no worker {name} is here: tracker workers lists their ids, hosts and machines")
    if len(found) > 1:
        raise TrackerError(f"the ids of {len(found)} workers begin with {name}: give more of it")
    return found


def drain(connection: Connection, found: Sequence[Row]) -> int:
    """Let workers end what they hold and leave; how many were not draining before."""
    with translated(), connection.transaction():
        drained = connection.execute(query("drain"), {"workers": _ids(found)}).fetchall()
        for row in drained:
            record(connection, "drain", row["worker"], before={"state": "active"}, after={"state": "draining"})
    return len(drained)


def evict(connection: Connection, found: Sequence[Row]) -> int:
    """End workers' leases and refuse them from now on; the number of jobs that are ready again."""
    with translated(), connection.transaction():
        returned = give_back(connection, _ids(found))
        connection.execute("UPDATE tracker.worker SET state = 'gone' WHERE worker_id = ANY (%s)", (_ids(found),))
        for row in found:
            before = {"state": row["state"], "host": row["host"], "leases": row["leases"]}
            record(connection, "evict", row["worker"], before=before, after={"state": "gone", "leases": 0})
    return returned


def give_back(connection: Connection, worker_ids: Sequence[UUID]) -> int:
    """Make what workers hold ready again, in the caller's transaction; how many jobs that is."""
    connection.execute(LOCK, (list(worker_ids),))
    row = connection.execute(query("give_back"), {"workers": list(worker_ids)}).fetchone()
    return int(row["n"]) if row else 0


def is_in_trouble(row: Row) -> bool:
    """Return whether the worker is stuck or silent."""
    return bool(row["stuck"] or not row["alive"])


def _ids(found: Sequence[Row]) -> list[UUID]:
    return [UUID(row["worker"]) for row in found]
