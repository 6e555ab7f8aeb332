"""The admin's settings, and the log of changes."""

import threading
from collections.abc import Callable

import pytest

from tests.tracker.filling import fill_pool, new_run, scalar, set_setting
from tests.tracker.talking import Console
from tracker.database.database import Connection, connect
from tracker.database.enums import QUEUES
from tracker.protocol.session import Session

Register = Callable[[str], Session]
Expire = Callable[[Session], None]


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def test_a_queue_at_its_limit_gives_nothing_out_until_a_job_ends(
    admin: Connection, register: Register, console: Console
) -> None:
    new_run(admin, wats=9)
    console("limit", "extract", 3)
    worker = register("extract")
    held = worker.claim(want=9)
    assert len(held) == 3
    assert worker.claim() == []
    worker.release(held[0])
    assert len(worker.claim(want=9)) == 1
    console("limit", "extract", "none")
    assert len(worker.claim(want=9)) == 6


def test_a_limit_bounds_draws(admin: Connection, register: Register, console: Console) -> None:
    fill_pool(admin, new_run(admin), 100)
    set_setting(admin, "batch_size", 10)
    console("limit", "download", 1)
    worker = register("download")
    assert worker.draw() is not None
    assert worker.draw() is None
    console("limit", "download", 0)
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE state = 'leased'") == 1


def test_many_claims_at_once_do_not_pass_the_limit(admin: Connection, register: Register, console: Console) -> None:
    new_run(admin, wats=100)
    console("limit", "extract", 5)
    workers = [register("extract") for _ in range(8)]
    start = threading.Barrier(len(workers))

    def take(worker: Session) -> None:
        start.wait()
        for _ in range(5):
            worker.claim(want=2)

    threads = [threading.Thread(target=take, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE state = 'leased'") == 5


def test_a_queue_whose_limit_dead_workers_hold_is_taken_over(
    admin: Connection, register: Register, expire: Expire, console: Console
) -> None:
    new_run(admin, wats=3)
    console("limit", "extract", 1)
    silent = register("extract")
    (lost,) = silent.claim()
    expire(silent)
    (taken,) = register("extract").claim(want=3)
    assert taken.job_id == lost.job_id


@pytest.mark.parametrize("number", ["-1", "3.5", "many", "٣", "9999999999"])
def test_a_limit_that_is_not_a_number_is_wrong_usage(console: Console, number: str) -> None:
    assert console("limit", "extract", "--", number).code == 2


def test_pausing_all_stops_every_queue_and_resuming_one_opens_it(admin: Connection, console: Console) -> None:
    assert console.json("pause", "all")["changed"] == list(QUEUES)
    assert console.json("pause", "ingest")["changed"] == []
    assert console.json("resume", "ingest") == {"paused": False, "changed": ["ingest"]}
    assert scalar(admin, "SELECT count(*) FROM tracker.control WHERE paused") == len(QUEUES) - 1


def test_every_change_is_in_the_log_with_who_before_and_after(
    admin: Connection, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.accounts.changes.getpass.getuser", lambda: "alice")
    console("set", "batch_size", 500)
    console("set", "weight_en", 0.5)
    console("pause", "extract")
    console("resume", "extract")
    console("limit", "filter", 7)
    console("enroll", "vm-1", "--kind", "download")
    console("revoke", "vm-1", "--yes")
    entries = console.json("log")["changes"]
    assert [(e["command"], e["subject"], e["before"], e["after"]) for e in reversed(entries)] == [
        ("set", "batch_size", 10000, 500),
        ("set", "weight_en", 1, 0.5),
        ("pause", "extract", {"paused": False}, {"paused": True}),
        ("resume", "extract", {"paused": True}, {"paused": False}),
        ("limit", "filter", {"max_leased": None}, {"max_leased": 7}),
        ("enroll", "vm-1", None, {"kind": "download"}),
        ("revoke", "vm-1", {"kind": "download", "workers": 0, "leases": 0}, None),
    ]
    assert all(e["who"].startswith("alice@") and e["changed_at"] for e in entries)
    assert {e["login"] for e in entries} == {scalar(admin, "SELECT session_user")}
    assert [e["subject"] for e in console.json("log", "--command", "set")["changes"]] == ["weight_en", "batch_size"]
    assert "max_leased none" in " ".join(console("log").out.split())


def test_what_changes_nothing_is_not_in_the_log(console: Console) -> None:
    for command in (("set", "batch_size", 10_000), ("resume", "extract"), ("limit", "extract", "none")):
        assert console(*command).code == 0
    assert console.json("log")["changes"] == []


def test_the_log_never_holds_a_token(admin: Connection, console: Console) -> None:
    token = console.json("enroll", "vm-1", "--kind", "filter")["token"]
    assert token not in str(admin.execute("SELECT * FROM tracker.change").fetchall())


def test_a_change_that_fails_leaves_no_entry(database: str, console: Console) -> None:
    assert "there is no setting batch_sise; there are" in console.refusal("set", "batch_sise", 1)
    assert "cannot be nan" in console.refusal("set", "batch_size", "nan")
    console("enroll", "vm-1", "--kind", "filter")
    assert "enrolled already" in console.refusal("enroll", "vm-1", "--kind", "filter")
    with connect(database) as connection:
        assert scalar(connection, "SELECT count(*) FROM tracker.change") == 1


def test_a_machine_is_told_what_it_boots_with_and_stdout_is_its_token_alone(console: Console) -> None:
    said = console("enroll", "vm-1", "--kind", "download")
    assert len(said.out.split()) == 1
    assert "SHOAL_DATABASE_URL" in said.err
    assert "shoal_download:PASSWORD@" in said.err
