"""The log of what the admin's commands changed: who, when, what, before and after.

Invariant: an entry is written in the transaction of its change, so that neither is there without the other. No secret
is ever in it: an enrolled machine's entry has its class, not its token.
"""

import getpass
import os
import socket
from typing import Any

from psycopg.types.json import Jsonb

from tracker.database.database import Connection, Row, query, translated

# Of a change that hits many jobs the log keeps the first ids and the number: a change of all dead jobs may be millions.
MAX_IDS = 1000


def record(connection: Connection, command: str, subject: str, *, before: Any, after: Any) -> None:
    """Note a change, in the caller's transaction; None for what was not there before, or is not after."""
    entry = {"who": _person(), "command": command, "subject": subject}
    values = {"before": _json(before), "after": _json(after)}
    connection.execute(query("insert_change"), entry | values)


def changes(connection: Connection, *, command: str | None, limit: int) -> list[Row]:
    """The latest changes, newest first, of one command or of all."""
    with translated():
        return connection.execute(query("changes"), {"command": command, "limit": limit}).fetchall()


def _person() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _json(value: Any) -> Jsonb | None:
    return None if value is None else Jsonb(value)
