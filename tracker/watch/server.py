"""What the database server says of its size and health; cheap enough to be asked every few seconds."""

import shutil
from typing import Any

from tracker.database.database import Connection, query, translated


def server(connection: Connection) -> dict[str, Any]:
    """Size, connections, horizon, dead rows of the pool and the ledger's lag; `disk` is None where it is not ours."""
    with translated():
        row = connection.execute(query("server")).fetchone()
    assert row is not None
    folder = row.pop("data_directory")
    return row | {"disk": _disk(folder) if folder and connection.info.host.startswith("/") else None}


def _disk(folder: str) -> dict[str, int] | None:
    """The disk of a server that runs on this machine: SQL cannot tell what is free."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    # what root alone may use is not free for Postgres
    return {"size_bytes": usage.used + usage.free, "free_bytes": usage.free}
