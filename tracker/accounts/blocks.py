"""Block and unblock hosts and URL prefixes. Each change is a new version of the list; workers fetch the difference."""

from collections.abc import Iterable

from tracker.accounts.changes import MAX_IDS, record
from tracker.database.database import Connection, Row, query, translated
from tracker.errors import TrackerError
from tracker.protocol.blocklist import read_pattern

# One change at a time, so that versions become visible in order. Readers do not wait.
LOCK = "LOCK TABLE tracker.block IN SHARE ROW EXCLUSIVE MODE"


def block(connection: Connection, texts: Iterable[str], reason: str, *, is_private: bool = False) -> list[str]:
    """Block hosts and URL prefixes for the whole fleet; return those that were not blocked before, in normal form.

    If `is_private`, the log of changes says how many they are, not which.

    Raises:
        PatternError: one of them cannot be blocked; then nothing is changed.
        TrackerError: there is no reason.
    """
    if not reason.strip():
        raise TrackerError("a block needs a reason: state it with --reason")
    return _change(connection, "block", texts, {"reason": reason.strip(), "lifted": False}, is_private=is_private)


def unblock(connection: Connection, texts: Iterable[str]) -> list[str]:
    """Lift blocks; return the patterns.

    Raises:
        PatternError: one of them is not a pattern.
        TrackerError: one of them is not blocked; then nothing is changed.
    """
    return _change(connection, "unblock", texts, {"reason": None, "lifted": True})


def blocks(connection: Connection) -> list[Row]:
    """Return what is blocked, sorted by pattern: pattern, reason, blocked_at, version."""
    with translated():
        return connection.execute(query("blocks")).fetchall()


def _change(
    connection: Connection, command: str, texts: Iterable[str], after: Row, *, is_private: bool = False
) -> list[str]:
    patterns = sorted({read_pattern(text) for text in texts})
    if not patterns:
        raise TrackerError(f"there is nothing to {command}: name hosts or URL prefixes")
    with translated(), connection.transaction():
        connection.execute(LOCK)
        known = connection.execute(
            "SELECT pattern FROM tracker.block WHERE NOT lifted AND pattern = ANY (%s)", (patterns,)
        )
        before = {row["pattern"] for row in known}
        if after["lifted"] and (missing := [pattern for pattern in patterns if pattern not in before]):
            raise TrackerError(f"{missing[0]} is not blocked: tracker blocks lists what is")
        changed = [pattern for pattern in patterns if (pattern in before) == after["lifted"]]
        connection.execute(query("change_blocks"), {"patterns": changed, **after})
        if changed:
            named = [] if is_private else changed[:MAX_IDS]
            subject = named[0] if len(changed) == len(named) == 1 else f"{len(changed)} patterns"
            facts = {"patterns": named, **({"reason": after["reason"]} if after["reason"] else {})}
            sides = (facts, None) if after["lifted"] else (None, facts)
            record(connection, command, subject, before=sides[0], after=sides[1])
    return changed
