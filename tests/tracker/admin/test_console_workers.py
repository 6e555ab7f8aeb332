"""Workers as the admin sees them; drain, evict and revoke at bad moments."""

import threading
from collections.abc import Callable

import pytest

from tests.tracker.filling import new_run, scalar
from tests.tracker.talking import Console
from tracker.accounts import fleet
from tracker.database.database import Connection, connect
from tracker.errors import LeaseLost, Refused
from tracker.protocol.session import Job, Session

Register = Callable[[str], Session]
Expire = Callable[[Session], None]
EMPTY_PACK = {"images": 0, "candidates": 0, "slots": [{"rows": 0, "bytes": 0}]}
ASKS = 100_000  # a bound for a loop that ends in some


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def wait_until_one_waits(url: str) -> None:
    """Return when a connection of this database waits for a lock."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with connect(url) as connection:
        for _ in range(ASKS):
            if scalar(connection, asked):
                return
    raise AssertionError("nobody waits for a lock")


def test_a_worker_is_shown_with_what_it_holds_and_did(admin: Connection, register: Register, console: Console) -> None:
    new_run(admin, wats=4)
    worker = register("extract")
    first, second, _ = worker.claim(want=3)
    worker.complete(first, EMPTY_PACK)
    worker.fail(second, "no such file")
    register("filter")
    (row,) = console.json("workers", "--kind", "extract")["workers"]
    assert row["worker"] == str(worker.worker_id)
    assert (row["kind"], row["state"], row["leases"], row["failures_last_hour"]) == ("extract", "active", 1, 1)
    assert row["jobs_per_hour"] == 60  # one job in its first minute
    assert (row["alive"], row["stuck"]) == (True, False)
    assert row["host"]
    assert row["version"]
    assert len(console.json("workers")["workers"]) == 2


@pytest.mark.parametrize(
    ("usual_seconds", "still_seconds", "stuck"),
    [(100, 290, False), (100, 310, True), (1, 50, False), (1, 70, True), (7200, 1700, False), (7200, 1900, True)],
)
def test_a_worker_that_beats_without_progress_for_three_times_the_usual_is_stuck(
    admin: Connection, register: Register, console: Console, usual_seconds: int, still_seconds: int, stuck: bool
) -> None:
    new_run(admin, wats=2)
    worker = register("extract")
    worker.complete(worker.claim()[0], EMPTY_PACK)
    admin.execute("UPDATE tracker.lease SET ended_at = granted_at + make_interval(secs => %s)", (usual_seconds,))
    assert worker.claim()
    admin.execute("UPDATE tracker.worker SET progressed_at = now() - make_interval(secs => %s)", (still_seconds,))
    (row,) = console.json("workers")["workers"]
    assert row["stuck"] is stuck
    assert ("stuck" in console("workers").out) is stuck


def test_an_idle_worker_is_not_stuck_and_a_silent_one_is_silent(
    admin: Connection, register: Register, expire: Expire, console: Console
) -> None:
    idle, silent = register("extract"), register("filter")
    admin.execute("UPDATE tracker.worker SET progressed_at = now() - interval '1 day'")
    expire(silent)
    rows = {row["worker"]: row for row in console.json("workers")["workers"]}
    assert (rows[str(idle.worker_id)]["alive"], rows[str(idle.worker_id)]["stuck"]) == (True, False)
    assert (rows[str(silent.worker_id)]["alive"], rows[str(silent.worker_id)]["stuck"]) == (False, False)


def test_a_drained_worker_keeps_what_it_holds_and_gets_nothing_new(
    admin: Connection, register: Register, console: Console
) -> None:
    new_run(admin, wats=2)
    worker = register("extract")
    (held,) = worker.claim()
    assert console.json("drain", str(worker.worker_id)[:8])["drained"] == 1
    assert worker.heartbeat(1) == "draining"
    assert worker.claim() == []
    worker.complete(held, EMPTY_PACK)
    assert console.json("drain", worker.worker_id)["drained"] == 0
    (entry,) = console.json("log")["changes"]
    assert (entry["command"], entry["subject"]) == ("drain", str(worker.worker_id))


def test_an_evicted_workers_jobs_are_ready_at_once_with_no_attempt_used_up(
    admin: Connection, register: Register, console: Console
) -> None:
    new_run(admin, wats=2)
    worker = register("extract")
    held = worker.claim(want=2)
    done = console.json("evict", worker.worker_id, "--yes")
    assert (done["changed"], done["returned"]) == (True, 2)
    taken = register("extract").claim(want=2)
    assert [(job.job_id, job.attempt) for job in taken] == [(job.job_id, 1) for job in held]
    with pytest.raises(LeaseLost):
        worker.complete(held[0], EMPTY_PACK)
    with pytest.raises(LeaseLost):
        worker.release(held[1])
    with pytest.raises(Refused, match="evicted"):
        worker.heartbeat(1)
    assert scalar(admin, "SELECT count(*) FROM tracker.lease WHERE ending = 'evicted'") == 2
    (entry,) = console.json("log")["changes"]
    assert (entry["command"], entry["before"]["leases"]) == ("evict", 2)


def test_an_evicted_ingest_workers_slot_is_free(admin: Connection, register: Register, console: Console) -> None:
    first, second = register("ingest"), register("ingest")
    assert first.hold_slot()
    assert second.hold_slot() is None
    console("evict", first.worker_id, "--yes")
    assert second.hold_slot()


def test_without_a_yes_eviction_and_revocation_show_what_they_would_hit_and_change_nothing(
    admin: Connection, register: Register, console: Console
) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    assert worker.claim()
    console("enroll", "vm-1", "--kind", "extract")
    admin.execute("UPDATE tracker.worker SET machine = 'vm-1'")
    for command in (("evict", worker.worker_id), ("revoke", "vm-1")):
        said = console(*command, "--json")
        assert said.code == 1
        assert said.err == "tracker: nothing was changed: add --yes to do it\n"
        assert said.data["changed"] is False
        assert [(row["worker"], row["leases"]) for row in said.data["workers"]] == [(str(worker.worker_id), 1)]
        assert str(worker.worker_id)[:8] in console(*command).out
    assert worker.heartbeat(1) == "active"
    assert [e["command"] for e in console.json("log")["changes"]] == ["enroll"]


def test_a_revoked_machines_jobs_are_ready_at_once(admin: Connection, register: Register, console: Console) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (held,) = worker.claim()
    console("enroll", "vm-1", "--kind", "extract")
    admin.execute("UPDATE tracker.worker SET machine = 'vm-1'")
    assert console.json("revoke", "vm-1", "--yes")["workers"] == 1
    (row,) = console.json("workers")["workers"]
    assert (row["alive"], row["seen_seconds_ago"], row["leases"]) == (False, None, 0)
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "ready"
    with pytest.raises(Refused, match="revoked"):
        worker.heartbeat(1)
    with pytest.raises(LeaseLost):
        worker.complete(held, EMPTY_PACK)
    assert console.refusal("revoke", "vm-2", "--yes") == "tracker: no machine vm-2 is enrolled"


def test_a_name_that_matches_no_worker_or_several_is_refused(
    admin: Connection, register: Register, console: Console
) -> None:
    for i in range(2):
        alike = f"abcd000{i}-0000-0000-0000-000000000000"
        admin.execute(
            "UPDATE tracker.worker SET worker_id = %s WHERE worker_id = %s", (alike, register("extract").worker_id)
        )
    assert "there is no worker nobody" in console.refusal("evict", "nobody", "--yes")
    assert "there is no worker abc" in console.refusal("evict", "abc", "--yes")
    assert "the ids of 2 workers begin with abcd" in console.refusal("drain", "abcd")
    assert console.json("drain", "abcd0001")["drained"] == 1


def test_a_hosts_workers_are_drained_together(admin: Connection, register: Register, console: Console) -> None:
    for kind in ("extract", "filter"):
        register(kind)
    admin.execute("UPDATE tracker.worker SET host = 'node-7'")
    assert console.json("drain", "node-7")["drained"] == 2


def test_an_eviction_waits_for_a_concurrent_claim_and_takes_its_jobs(
    database: str, admin: Connection, register: Register
) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (row,) = fleet.workers(admin)
    returned: list[int] = []

    def evict() -> None:
        with connect(database) as other:
            returned.append(fleet.evict(other, [row]))

    thread = threading.Thread(target=evict)
    with admin.transaction():
        claim = "SELECT * FROM tracker.claim(%s, gen_random_uuid(), 'extract')"
        assert len(admin.execute(claim, (worker.worker_id,)).fetchall()) == 1
        thread.start()
        wait_until_one_waits(database)
    thread.join()
    assert returned == [1]
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "ready"


def test_a_claim_that_waited_for_its_own_eviction_gets_nothing(
    database: str, admin: Connection, register: Register
) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    claimed: list[list[Job]] = []
    thread = threading.Thread(target=lambda: claimed.append(worker.claim()))
    with admin.transaction():
        fleet.evict(admin, fleet.workers(admin))
        thread.start()
        wait_until_one_waits(database)
    thread.join()
    assert claimed == [[]]
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "ready"


def test_an_eviction_that_is_rolled_back_returns_nothing(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (held,) = worker.claim()
    with admin.transaction(force_rollback=True):
        assert fleet.evict(admin, fleet.workers(admin)) == 1
    worker.complete(held, EMPTY_PACK)
    assert scalar(admin, "SELECT count(*) FROM tracker.change") == 0
