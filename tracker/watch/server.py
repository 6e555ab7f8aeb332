"""Size and health of the database server; the query is cheap enough to run every few seconds."""

import shutil
from typing import Any

from tracker.database.database import Connection, query, translated


def server(connection: Connection) -> dict[str, Any]:
    """Return size, connections, horizon, dead rows and the ledger's lag; `disk` is None for a remote server."""
    with translated():
        row = connection.execute(query("server")).fetchone()
    assert row is not None
    folder = row.pop("data_directory")
    return row | {"disk": _disk(folder) if folder and connection.info.host.startswith("/") else None}


def _disk(folder: str) -> dict[str, int] | None:
    """Return the disk of a server on this machine, because SQL cannot read the free space."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    # blocks reserved for root are not free for Postgres
    return {"size_bytes": usage.used + usage.free, "free_bytes": usage.free}
