"""What the admin sets: settings, paused queues, limits. Every change is logged."""

import math
from collections.abc import Sequence

from psycopg.types.json import Jsonb

from tracker.accounts.changes import record
from tracker.database.database import Connection, query, translated
from tracker.errors import TrackerError

# These cannot change once the filter has keys: with another kind of key it would recognise none of them.
FIXED_WITH_FILTER = frozenset({"bloom_language", "bloom_rate", "bloom_capacity"})

# Names of settings that may have a fraction; all others are counts.
FRACTIONS = ("_seconds", "_share", "_factor", "_rate", "_hours", "weight_en", "weight_multi", "weight_nolang")

SETTING = "SELECT value, least, most FROM tracker.setting WHERE name = %s FOR UPDATE"


def change_setting(connection: Connection, name: str, value: float) -> object:
    """Change a setting and return the previous value; workers read settings when they register.

    Raises:
        TrackerError: there is no such setting, or the value is out of its bounds.
    """
    if not math.isfinite(value):
        raise TrackerError(f"{name} cannot be {value}: give a number")
    with translated(), connection.transaction():
        row = connection.execute(SETTING, (name,)).fetchone()
        if row is None:
            known = ", ".join(row["name"] for row in connection.execute("SELECT name FROM tracker.setting ORDER BY 1"))
            raise TrackerError(f"there is no setting {name}; there are {known}")
        number = int(value) if value == int(value) else value
        if not row["least"] <= number <= row["most"]:
            raise TrackerError(f"{name} cannot be {number}: give {row['least']} to {row['most']}")
        if isinstance(number, float) and not name.endswith(FRACTIONS):
            raise TrackerError(f"{name} cannot be {number}: give a whole number")
        _require_order(connection, name, number)
        if name == "lease_seconds" and number < row["value"]:
            _require_nobody_alive(connection, row["value"])
        if name == "bloom_slots":
            _split_filter(connection, int(number))
        elif name in FIXED_WITH_FILTER and number != row["value"]:
            _require_no_filter(connection, name)
        connection.execute("UPDATE tracker.setting SET value = %s WHERE name = %s", (Jsonb(number), name))
        if row["value"] != number:
            record(connection, "set", name, before=row["value"], after=number)
        return row["value"]


def _split_filter(connection: Connection, slots: int) -> None:
    """Create the slots of the Bloom filter. This is possible only before the first pack, because packs are split by
    slot.

    Raises:
        TrackerError: there are packs.
    """
    if connection.execute("SELECT FROM tracker.manifest WHERE kind = 'pack' LIMIT 1").fetchone() is not None:
        raise TrackerError(
            "bloom_slots cannot change once there are packs, because packs are split by it: set it on a new database"
        )
    connection.execute("DELETE FROM tracker.bloom")
    connection.execute("INSERT INTO tracker.bloom (slot) SELECT generate_series(0, %s - 1)", (slots,))


def _require_order(connection: Connection, name: str, number: float) -> None:
    """Check that a resume mark stays below its high mark.

    Raises:
        TrackerError: it would not.
    """
    stem, _, mark = name.rpartition("_")
    other = {"high": f"{stem}_resume", "resume": f"{stem}_high"}.get(mark)
    row = connection.execute("SELECT value FROM tracker.setting WHERE name = %s", (other,)).fetchone()
    if row is None:
        return
    high, resume = (number, row["value"]) if mark == "high" else (row["value"], number)
    if resume >= high:
        raise TrackerError(
            f"{name} cannot be {number}: {other} is {row['value']}, set that first, because high must be above resume"
        )


def _require_nobody_alive(connection: Connection, lease_seconds: float) -> None:
    """Check that no worker is alive: workers that send heartbeats for the longer lease would lose their jobs at once.

    Raises:
        TrackerError: some are alive.
    """
    row = connection.execute(query("beating_workers"), {"seconds": lease_seconds}).fetchone()
    if row is not None and row["n"]:
        raise TrackerError(f"lease_seconds cannot be shorter while {row['n']} workers are alive: drain them first")


def _require_no_filter(connection: Connection, name: str) -> None:
    """Check that no pack has gone through the Bloom filter: its parameters cannot change afterwards.

    Raises:
        TrackerError: one has.
    """
    if connection.execute("SELECT FROM tracker.bloom WHERE ordinal > 0 LIMIT 1").fetchone() is not None:
        raise TrackerError(f"{name} cannot change once a pack has gone through the filter: set it on a new database")


def set_paused(connection: Connection, queues: Sequence[str], *, paused: bool) -> list[str]:
    """Pause or resume queues; return those that changed."""
    changed = []
    with translated(), connection.transaction():
        connection.execute(query("insert_controls"), {"queues": list(queues)})
        for queue in queues:
            if connection.execute(
                "UPDATE tracker.control SET paused = %(paused)s WHERE queue = %(queue)s AND paused <> %(paused)s",
                {"queue": queue, "paused": paused},
            ).rowcount:
                command = "pause" if paused else "resume"
                record(connection, command, queue, before={"paused": not paused}, after={"paused": paused})
                changed.append(queue)
    return changed


def set_limit(connection: Connection, queue: str, most: int | None) -> int | None:
    """Limit how many jobs of a queue are leased at once (None: no limit); return the previous limit.

    Jobs that are leased already continue, also above the limit.
    """
    with translated(), connection.transaction():
        connection.execute(query("insert_controls"), {"queues": [queue]})
        row = connection.execute(
            "SELECT max_leased FROM tracker.control WHERE queue = %s FOR UPDATE", (queue,)
        ).fetchone()
        assert row is not None
        before: int | None = row["max_leased"]
        connection.execute("UPDATE tracker.control SET max_leased = %s WHERE queue = %s", (most, queue))
        if before != most:
            record(connection, "limit", queue, before={"max_leased": before}, after={"max_leased": most})
    return before
