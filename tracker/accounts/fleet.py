"""The workers, and how the admin drains or evicts them.

A drained worker gets no new jobs, finishes those that it holds, and leaves. The jobs of an evicted worker are ready for
others at once, and its further calls are refused. An eviction locks the worker's row first, as a claim does: so either
the eviction sees a concurrent claim, or the claim sees that its worker is gone.
"""

from collections.abc import Sequence
from uuid import UUID

from tracker.accounts.changes import record
from tracker.database.database import Connection, Row, query, translated
from tracker.errors import TrackerError

LOCK = "SELECT worker_id FROM tracker.worker WHERE worker_id = ANY (%s) ORDER BY worker_id FOR NO KEY UPDATE"
# With fewer letters, the beginning of a worker's id would too easily match another worker's.
FEWEST_LETTERS = 4


def workers(connection: Connection, *, kind: str | None = None) -> list[Row]:
    """Return the workers of a kind, or all, that have not left; `tracker workers --json` prints these keys."""
    with translated():
        rows = connection.execute(query("fleet")).fetchall()
    return [row for row in rows if kind in {None, row["kind"]}]


def find(connection: Connection, name: str) -> list[Row]:
    """Return the worker whose id begins with `name`, or all workers of a host or an enrolled machine.

    Raises:
        TrackerError: no worker matches, or several ids begin with `name`.
    """
    known = workers(connection)
    if together := [row for row in known if name in {row["host"], row["machine"]}]:
        return together
    found = [row for row in known if len(name) >= FEWEST_LETTERS and row["worker"].startswith(name.lower())]
    if not found:
        raise TrackerError(f"there is no worker {name}: tracker workers lists ids, hosts and machines")
    if len(found) > 1:
        raise TrackerError(f"the ids of {len(found)} workers begin with {name}: give more letters of it")
    return found


def drain(connection: Connection, found: Sequence[Row]) -> int:
    """Drain workers; return how many were not draining before."""
    with translated(), connection.transaction():
        drained = connection.execute(query("drain"), {"workers": _ids(found)}).fetchall()
        for row in drained:
            record(connection, "drain", row["worker"], before={"state": "active"}, after={"state": "draining"})
    return len(drained)


def evict(connection: Connection, found: Sequence[Row]) -> int:
    """Evict workers; return how many jobs are ready again."""
    with translated(), connection.transaction():
        returned = give_back(connection, _ids(found))
        connection.execute("UPDATE tracker.worker SET state = 'gone' WHERE worker_id = ANY (%s)", (_ids(found),))
        for row in found:
            before = {"state": row["state"], "host": row["host"], "leases": row["leases"]}
            record(connection, "evict", row["worker"], before=before, after={"state": "gone", "leases": 0})
    return returned


def give_back(connection: Connection, worker_ids: Sequence[UUID]) -> int:
    """Make the jobs of workers ready again, in the caller's transaction; return how many."""
    connection.execute(LOCK, (list(worker_ids),))
    row = connection.execute(query("give_back"), {"workers": list(worker_ids)}).fetchone()
    return int(row["n"]) if row else 0


def is_in_trouble(row: Row) -> bool:
    """Return whether the worker is stuck or silent."""
    return bool(row["stuck"] or not row["alive"])


def _ids(found: Sequence[Row]) -> list[UUID]:
    return [UUID(row["worker"]) for row in found]
