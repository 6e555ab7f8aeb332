"""The log of changes by the admin's commands: who, when, what, before and after.

Invariant: an entry is written in the transaction of its change, so neither exists without the other. An entry contains
no secret: the entry of an enrolled machine has the machine's class, not its token.
"""

import getpass
import os
import socket
from typing import Any

from psycopg.types.json import Jsonb

from tracker.database.database import Connection, Row, query, translated

# One command may change millions of jobs, so the log keeps their number and only the first ids.
MAX_IDS = 1000


def record(connection: Connection, command: str, subject: str, *, before: Any, after: Any) -> None:
    """Log a change in the caller's transaction; None means that nothing was there before, or is afterwards."""
    entry = {"who": _person(), "command": command, "subject": subject}
    values = {"before": _json(before), "after": _json(after)}
    connection.execute(query("insert_change"), entry | values)


def changes(connection: Connection, *, command: str | None, limit: int) -> list[Row]:
    """Return the latest changes, newest first, by one command or by all."""
    with translated():
        return connection.execute(query("changes"), {"command": command, "limit": limit}).fetchall()


def _person() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _json(value: Any) -> Jsonb | None:
    return None if value is None else Jsonb(value)
