"""What Postgres raises becomes the tracker's own exceptions."""

import select

import pytest

from tracker.database import Connection, connect, translated
from tracker.errors import DatabaseDown


def test_a_transaction_that_idled_too_long_is_a_broken_connection(database: str) -> None:
    with connect(database) as connection:
        connection.execute("SET idle_in_transaction_session_timeout = '10ms'")
        with pytest.raises(DatabaseDown, match="idle-in-transaction"):
            idle(connection)


def idle(connection: Connection) -> None:
    """Begin a transaction, and go on once the server has something to say about it."""
    with translated(), connection.transaction():
        connection.execute("SELECT 1")
        select.select([connection.fileno()], [], [])
        connection.execute("SELECT 1")
