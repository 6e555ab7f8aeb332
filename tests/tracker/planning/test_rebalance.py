"""Rebalance finds the bottleneck, proposes changes, and with --apply makes those that the tracker can make itself."""

from collections.abc import Callable

import pytest

from tests.tracker.filling import finished_job, listed_pack, new_run, scalar
from tests.tracker.talking import Console
from tracker.database.database import Connection
from tracker.protocol.session import Session

Register = Callable[[str], Session]
Expire = Callable[[Session], None]


@pytest.fixture
def tracker(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def measured(admin: Connection, run_id: int, queue: str, rows_in: int, rows_out: int, seconds: int) -> None:
    job = finished_job(admin, run_id)
    for account, n in (("rows_in", rows_in), ("rows_out", rows_out), ("milliseconds", 1000 * seconds)):
        admin.execute(
            "INSERT INTO tracker.ledger (run_id, job_id, account, label, n) VALUES (%s, %s, %s, %s, %s)",
            (run_id, job, account, queue, n),
        )


def shards_waiting(admin: Connection, run_id: int, subset: str, n: int) -> None:
    admin.execute(
        "INSERT INTO tracker.job (queue, run_id, payload) SELECT 'filter', %s, jsonb_build_object('subset', %s::text) "
        "FROM generate_series(1, %s)",
        (run_id, subset, n),
    )


def test_without_workers_there_is_no_bottleneck(tracker: Console) -> None:
    data = tracker.json("rebalance")
    assert data["bottleneck"] is None
    assert "no worker is alive" in tracker("rebalance").out


def test_the_slowest_stage_is_named_and_the_others_are_held_against_it(
    tracker: Console, admin: Connection, register: Register
) -> None:
    run_id = new_run(admin)
    measured(admin, run_id, "ingest", 1_000_000, 500_000, 100)  # half are new: 5,000 new links a second
    measured(admin, run_id, "download", 10_000, 8_000, 100)  # 100 a second
    measured(admin, run_id, "filter", 8_000, 800, 20)  # 400 samples a second, 500 links
    for kind in ("ingest", "download", "download", "filter"):
        register(kind)
    data = tracker.json("rebalance")
    kinds = {kind["stage"]: kind for kind in data["kinds"]}
    assert data["bottleneck"] == "download"
    assert kinds["download"]["links_per_second"] == pytest.approx(200)
    assert kinds["filter"]["links_per_second"] == pytest.approx(500)
    assert (kinds["download"]["alive"], kinds["filter"]["enough"], kinds["ingest"]["enough"]) == (2, 1, 1)
    assert "extract" in data["unmeasured"]


def test_a_subset_whose_shards_pile_up_is_drawn_half_as_often_and_later_as_before(
    tracker: Console, admin: Connection
) -> None:
    run_id = new_run(admin)
    shards_waiting(admin, run_id, "multi", 50)
    shards_waiting(admin, run_id, "en", 2)
    weight = "SELECT (value #>> '{}')::float8 FROM tracker.setting WHERE name = 'weight_multi'"
    assert scalar(admin, weight) == 1
    tracker.json("rebalance")
    assert scalar(admin, weight) == 1  # proposed, not set
    tracker.json("rebalance", "--apply")
    assert scalar(admin, weight) == 0.5
    admin.execute("DELETE FROM tracker.job WHERE payload ->> 'subset' = 'multi'")
    tracker.json("rebalance", "--apply")
    assert scalar(admin, weight) == 1


def test_the_low_mark_leaves_hours_to_mend_what_has_stopped(
    tracker: Console, admin: Connection, register: Register
) -> None:
    run_id = new_run(admin)
    measured(admin, run_id, "download", 200_000_000, 100_000_000, 1000)  # 200,000 a second
    register("download")
    data = tracker.json("rebalance", "--apply")
    after = {change["setting"]: change["after"] for change in data["changes"]}
    assert after["pool_low"] == 6 * 3600 * 200_000
    assert after["pool_low"] < after["pool_resume"] < after["pool_high"]
    assert tracker.json("rebalance")["changes"] == []
    entry = tracker.json("log", "--command", "rebalance")["changes"][0]
    assert entry["after"]["pool_low"] == after["pool_low"]


def test_what_silent_workers_hold_is_ready_again(
    tracker: Console, admin: Connection, register: Register, expire: Expire
) -> None:
    listed_pack(admin, new_run(admin), 10)
    worker = register("ingest")
    worker.hold_slot()
    assert len(worker.claim()) == 1
    expire(worker)
    assert tracker.json("rebalance")["jobs_returned"] is None
    assert tracker.json("rebalance", "--apply")["jobs_returned"] == 1
    assert scalar(admin, "SELECT state::text FROM tracker.job WHERE queue = 'ingest' AND payload ? 'pack'") == "ready"
