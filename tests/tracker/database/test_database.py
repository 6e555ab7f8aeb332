"""Errors of Postgres become the tracker's own exceptions."""

import select

import psycopg
import pytest
from psycopg import errors

from tests.chaos.cutting_proxy import Cut
from tests.chaos.test_chaos import cutting
from tests.tracker.filling import new_run, set_setting
from tracker.database.database import Connection, connect, translated
from tracker.errors import DatabaseDown, TrackerError
from tracker.protocol.session import Session


def test_a_transaction_that_idled_too_long_is_a_broken_connection(database: str) -> None:
    with connect(database) as connection:
        connection.execute("SET idle_in_transaction_session_timeout = '10ms'")
        with pytest.raises(DatabaseDown, match=r"idle-in-transaction|closed the connection"):
            idle(connection)


def idle(connection: Connection) -> None:
    """Begin a transaction, and go on once the server has something to say about it."""
    with translated(), connection.transaction():
        connection.execute("SELECT 1")
        select.select([connection.fileno()], [], [])
        connection.execute("SELECT 1")


DOWN = {
    "connection exceptions": "08000 08001 08003 08004 08006 08007 08P01",
    "a standby": "25006",
    "a transaction that the server ended": "25P03 25P04",
    "rolled back by the server": "40001 40P01",
    "no room": "53000 53100 53200 53300 53400",
    "stopping, starting, dropped, idle, too slow": "57014 57P01 57P02 57P03 57P04 57P05",
    "the disk": "58000 58030",
    "a pooler whose server is away": "XX000",
}


@pytest.mark.parametrize("state", " ".join(DOWN.values()).split())
def test_an_error_that_is_the_databases_state_is_waited_for(state: str) -> None:
    with pytest.raises(DatabaseDown), translated():
        raise errors.lookup(state)("away")


@pytest.mark.parametrize("state", ["22P05", "23505", "42601", "XX001", "XX002"])
def test_an_error_of_the_statement_or_of_damaged_data_is_not_waited_for(state: str) -> None:
    with pytest.raises(TrackerError) as raised, translated():
        raise errors.lookup(state)("wrong")
    assert not isinstance(raised.value, DatabaseDown)


def test_a_mistake_in_our_own_statement_is_not_waited_for(admin: Connection) -> None:
    with pytest.raises(TrackerError) as raised, translated():
        admin.execute("SELECT %s, %s", (1,))
    assert not isinstance(raised.value, DatabaseDown)


def test_what_libpq_says_of_a_lost_connection_is_waited_for() -> None:
    with pytest.raises(DatabaseDown), translated():
        raise psycopg.DatabaseError("server closed the connection unexpectedly")


def test_a_worker_waits_for_a_database_that_takes_no_writes(
    admin: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the old primary of a failover does, or a standby; connections that are open go on."""
    writes = f"ALTER DATABASE {admin.info.dbname} SET default_transaction_read_only".encode()
    new_run(admin, wats=1)
    row = admin.execute("SELECT * FROM tracker.register('extract', 'here', 1, '1', 3, NULL)").fetchone()
    assert row is not None
    admin.execute(writes + b" = on")
    worker = Session(database, "extract", row["worker_id"], row["settings"])
    tried = []

    def promote(_: float) -> None:
        tried.append(1)
        admin.execute(writes + b" = off")

    monkeypatch.setattr("tracker.protocol.session.time.sleep", promote)
    assert [job.job_id for job in worker.claim()] == [1]
    assert len(tried) == 1
    worker.close()


@pytest.mark.parametrize("verb", ["heartbeat", "claim"])
def test_a_server_that_is_there_and_says_nothing_counts_as_broken(
    admin: Connection, database: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("tracker.protocol.session.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("tracker.protocol.session.PATIENCE_SECONDS", 0.15)
    set_setting(admin, "lease_seconds", 4)
    new_run(admin, wats=1)
    with cutting(database) as (proxy, url):
        worker = Session.register(url, "extract")
        monkeypatch.setattr("tests.chaos.cutting_proxy.SILENT_SECONDS", 3600.0)
        proxy.arm(Cut("silence", f"tracker.{verb}(".encode()))
        if verb == "heartbeat":
            assert worker.heartbeat(1) == "active"
        else:
            assert [job.job_id for job in worker.claim()] == [1]  # the same request again: the same lease
        assert proxy.done.total() == 1
        worker.close()
