"""What Postgres raises becomes the tracker's own exceptions."""

import select

import pytest

from tests.chaos.cutting_proxy import Cut
from tests.chaos.test_chaos import cutting
from tests.tracker.filling import new_run, set_setting
from tracker.database.database import Connection, connect, translated
from tracker.errors import DatabaseDown
from tracker.protocol.session import Session


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
