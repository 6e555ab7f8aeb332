"""Builds over a release: each step begins exactly once, after the last unit of the step before, whatever happens."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.tracker.admin.test_listing import printed
from tests.tracker.filling import scalar, set_setting
from tests.tracker.functions.test_interleavings import meanwhile
from tracker.accounts.audit import audit
from tracker.accounts.controls import set_paused
from tracker.admin.jobs import Choice, choose, discard, retry
from tracker.admin.status import StatusView
from tracker.database.database import Connection, connect
from tracker.errors import LeaseLost, Refused, TrackerError
from tracker.protocol.session import Job, Session
from tracker.seeding.builds import Build, SeededBuild, seed_build
from tracker.seeding.releases import ReleaseRun, open_release_run
from tracker.storage.manifest import outputs
from tracker.watch.snapshot import take_snapshot

Register = Callable[[str], Session]
Expire = Callable[[Session], None]

PLAN = (("train", 1), ("add", 3), ("merge", 0), ("finish", 1))
OPTIONS = {"model": "small", "share": 0.5}


@pytest.fixture
def run(admin: Connection, tmp_path: Path) -> ReleaseRun:
    record = tmp_path / "releases" / "r1" / "release.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"version": "1.0.0"}), encoding="utf-8")
    return open_release_run(admin, str(tmp_path), "r1")


def build(queue: str = "index", *, target: str = "small", **changes: Any) -> Build:
    return Build(queue, target, OPTIONS | changes, PLAN)


def result(*paths: str, rows: int = 4) -> dict[str, Any]:
    return {"rows_in": rows, "rows_out": rows, "files": [{"path": path, "rows": rows, "bytes": 9} for path in paths]}


def work(session: Session, *paths: str) -> Job:
    """Claim a unit and complete it."""
    (job,) = session.claim()
    session.complete(job, result(*paths))
    return job


def units(admin: Connection) -> list[tuple[str, str]]:
    rows = admin.execute("SELECT payload ->> 'unit' AS unit, state::text FROM tracker.job ORDER BY job_id")
    return [(str(row["unit"]).partition(" ")[2], str(row["state"])) for row in rows]


def state_of(admin: Connection) -> dict[str, Any]:
    row = admin.execute(
        "SELECT step, units_left, finished_at IS NOT NULL AS finished, abandoned_at IS NOT NULL AS abandoned "
        "FROM tracker.build ORDER BY build_id DESC LIMIT 1"
    ).fetchone()
    assert row is not None
    return row


@pytest.mark.parametrize("queue", ["index", "dedup"])
def test_a_step_begins_when_the_last_unit_of_the_one_before_is_done(
    admin: Connection, run: ReleaseRun, register: Register, queue: str
) -> None:
    seed_build(admin, run, build(queue))
    admin.execute("UPDATE tracker.job SET priority = 7")
    worker = register(queue)
    first = work(worker)
    assert first.payload == {
        "build": 1, "step": "train", "number": 0, "unit": "1 train 0", "options": OPTIONS, "version": "1.0.0",
        "plan": [list(step) for step in PLAN],
    }  # fmt: skip
    assert units(admin) == [("train 0", "done"), ("add 0", "ready"), ("add 1", "ready"), ("add 2", "ready")]
    work(worker)
    work(worker)
    assert not worker.is_idle()
    assert state_of(admin) == {"step": 1, "units_left": 1, "finished": False, "abandoned": False}
    work(worker)
    assert units(admin)[4:] == [("finish 0", "ready")]  # the step without units is passed over
    work(worker)
    assert state_of(admin) == {"step": 4, "units_left": 0, "finished": True, "abandoned": False}
    assert worker.is_idle()
    assert scalar(admin, "SELECT min(priority) FROM tracker.job") == 7
    queues = take_snapshot(admin)["queues"]
    assert [queues[queue][name] for name in ("done", "rows_in", "rows_out")] == [5, 20, 20]


def test_a_plan_without_units_is_finished_when_it_is_seeded(admin: Connection, run: ReleaseRun) -> None:
    seeded = seed_build(admin, run, Build("dedup", "", {}, [("train", 0), ("finish", 0)]))
    assert seeded == SeededBuild(1, is_new=True, is_finished=True, step=None, units_left=0)


def test_the_last_two_units_that_complete_at_once_begin_the_next_step_once(
    admin: Connection, database: str, run: ReleaseRun, register: Register
) -> None:
    seed_build(admin, run, build())
    one, two = register("index"), register("index")
    work(one)
    work(one)
    (first,), (second,) = one.claim(), two.claim()
    statement = b"SELECT tracker.complete_index(%s, %s, %s)"
    completing = connect(database)
    with completing, completing.transaction():
        completing.execute(statement, (first.job_id, first.lease, Jsonb(result())))
        between = meanwhile(
            database, lambda own: own.execute(statement, (second.job_id, second.lease, Jsonb(result()))) and None
        )
        between.__enter__()
    between.__exit__(None, None, None)
    assert [unit for unit, state in units(admin) if state == "ready"] == ["finish 0"]
    assert state_of(admin)["step"] == 3


def test_a_repeated_complete_and_a_late_one_change_nothing(
    admin: Connection, run: ReleaseRun, register: Register, expire: Expire
) -> None:
    seed_build(admin, run, build())
    late, other = register("index"), register("index")
    (held,) = late.claim()
    expire(late)
    work(other)
    with pytest.raises(LeaseLost):
        late.complete(held, result())
    (job,) = other.claim()
    for _ in range(3):
        other.complete(job, result())  # the reply was lost
    assert state_of(admin)["units_left"] == 2
    assert Counter(state for _, state in units(admin)) == {"done": 2, "ready": 2}


def test_a_unit_that_has_failed_for_the_last_time_stops_its_step_until_it_is_retried(
    admin: Connection, run: ReleaseRun, register: Register
) -> None:
    set_setting(admin, "max_attempts", 1)
    seed_build(admin, run, build())
    worker = register("index")
    work(worker)
    (job,) = worker.claim()
    assert worker.fail(job, "the disk is full") == "dead"
    work(worker)
    work(worker)
    assert worker.claim() == []
    seen = take_snapshot(admin)
    (row,) = seen["builds"]
    assert (row["step"], row["units"], row["units_left"], row["failed"]) == ("add", 3, 1, 1)
    (said,) = [sentence for sentence in seen["alarms"] if "build" in sentence]
    assert said == (
        "the index build of releases/r1 stands still: 1 unit of step add has failed; see tracker jobs --queue index "
        "--state dead, then tracker retry"
    )
    (line,) = [line for line in printed(StatusView(seen)) if "small" in line]
    assert line.split() == ["index", "r1", "small", "add", "(2/4)", "2", "3", "1", "stopped"]
    retry(admin, choose(admin, Choice(ids=(job.job_id,)), "retry", ("dead",)))
    work(worker)
    assert units(admin)[-1] == ("finish 0", "ready")
    assert not [sentence for sentence in take_snapshot(admin)["alarms"] if "build" in sentence]


def test_a_build_whose_unit_is_discarded_is_abandoned_and_can_be_begun_again(
    admin: Connection, run: ReleaseRun, register: Register
) -> None:
    set_setting(admin, "max_attempts", 1)
    seed_build(admin, run, build())
    worker = register("index")
    work(worker)
    (job,), (held,) = worker.claim(), worker.claim()
    worker.fail(job, "x")
    discard(admin, choose(admin, Choice(ids=(job.job_id,)), "discard", ("dead",)))
    assert [state for _, state in units(admin)] == ["done", "discarded", "leased", "discarded"]
    assert state_of(admin)["abandoned"]
    with pytest.raises(TrackerError, match=r"1 units of the earlier index build of releases/r1 are leased"):
        seed_build(admin, run, build())
    worker.complete(held, result())
    assert seed_build(admin, run, build()) == SeededBuild(2, is_new=True, is_finished=False, step="train", units_left=1)
    assert [work(worker).payload["build"] for _ in range(5)] == [2] * 5
    assert state_of(admin)["finished"]


def test_the_same_build_is_seeded_once_and_another_waits_for_it(
    admin: Connection, run: ReleaseRun, register: Register
) -> None:
    first = seed_build(admin, run, build())
    assert first == SeededBuild(1, is_new=True, is_finished=False, step="train", units_left=1)
    assert seed_build(admin, run, build()) == SeededBuild(
        1, is_new=False, is_finished=False, step="train", units_left=1
    )
    with pytest.raises(TrackerError, match=r"another index build of releases/r1 is at step train, with 1 units left"):
        seed_build(admin, run, build(share=0.6))
    assert seed_build(admin, run, build(target="large")).is_new
    assert seed_build(admin, run, build("dedup")).is_new
    assert seed_build(admin, run, build(share=0.6), restart=True).is_new
    worker = register("index")
    assert Counter(work(worker).payload["options"]["share"] for _ in range(10)) == {0.5: 5, 0.6: 5}  # large and small
    assert seed_build(admin, run, build(share=0.6)).is_finished  # what is built is not built again
    assert seed_build(admin, run, build()).is_new


def test_a_build_is_not_restarted_while_its_units_are_leased(
    admin: Connection, run: ReleaseRun, register: Register
) -> None:
    seed_build(admin, run, build())
    worker = register("index")
    (job,) = worker.claim()
    with pytest.raises(TrackerError, match="tracker pause index"):
        seed_build(admin, run, build(share=0.6), restart=True)
    assert not state_of(admin)["abandoned"]  # the refused restart has changed nothing
    set_paused(admin, ["index"], paused=True)
    worker.complete(job, result())
    seed_build(admin, run, build(share=0.6), restart=True)
    assert [unit for unit, state in units(admin) if state == "ready"] == ["train 0"]


def test_files_are_listed_under_the_releases_run_and_again_when_they_are_built_again(
    admin: Connection, run: ReleaseRun, register: Register
) -> None:
    worker = register("dedup")
    for rows in (4, 5):
        seed_build(admin, run, Build("dedup", "", {}, [("write", 1)]), restart=True)
        (job,) = worker.claim()
        worker.complete(job, result("duplicates/part-0.parquet", rows=rows))
        (listed,) = outputs(admin).to_pylist()
        assert (listed["kind"], listed["path"]) == ("dedup", "releases/r1/duplicates/part-0.parquet")
        assert (listed["rows"], listed["job"]) == (rows, job.job_id)
    assert audit(admin).holds


IMPOSSIBLE: list[dict[str, Any]] = [
    {"files": [{"path": "data/en/x.parquet", "rows": 1, "bytes": 1}]},
    {"files": [{"path": "indexes/x", "rows": 1, "bytes": 1}]},
    {"files": [{"path": "index/../data/x", "rows": 1, "bytes": 1}]},
    {"files": [{"path": "index//x", "rows": 1, "bytes": 1}]},
    {"files": [{"path": "index/", "rows": 1, "bytes": 1}]},
    {"files": [{"path": "index/" + "x" * 500, "rows": 1, "bytes": 1}]},
    {"files": [{"path": "index/x", "rows": -1, "bytes": 1}]},
    {"files": [{"path": "index/x", "rows": 1}]},
    {"files": ["index/x"]},
    {"files": "index/x"},
    {"files": None},
    {"rows_in": None},
    {"rows_out": -1},
]


def test_a_result_that_no_unit_has_is_refused_and_changes_nothing(
    admin: Connection, run: ReleaseRun, register: Register
) -> None:
    seed_build(admin, run, build())
    worker = register("index")
    (job,) = worker.claim()
    for changes in IMPOSSIBLE:
        with pytest.raises(Refused, match=rf"job {job.job_id}"):
            worker.complete(job, result() | changes)
    assert units(admin) == [("train 0", "leased")]
    assert outputs(admin).num_rows == 0


def test_a_worker_cannot_say_what_comes_next(admin: Connection, run: ReleaseRun, register: Register) -> None:
    seed_build(admin, run, build())
    worker = register("index")
    (job,) = worker.claim()
    worker.complete(
        job, result() | {"plan": [["mine", 1_000]], "step": 3, "units": 9, "build": 2, "payload": {"build": 2}}
    )
    assert units(admin)[1:] == [("add 0", "ready"), ("add 1", "ready"), ("add 2", "ready")]
    with pytest.raises(LeaseLost):
        register("dedup").complete(worker.claim()[0], result())


@pytest.mark.parametrize("seed", range(3))
def test_steps_follow_each_other_in_any_order_of_verbs(
    admin: Connection, run: ReleaseRun, register: Register, expire: Expire, seed: int
) -> None:
    """Claims, lost replies, deaths, failures and retries at random, against the counts that the plan gives."""
    chance = Random(seed)
    plan = [(f"step{number}", chance.choice((0, 1, 2, 4))) for number in range(5)] + [("finish", 1)]
    for name, value in (("max_attempts", 2), ("retry_seconds", 0)):
        set_setting(admin, name, value)
    seed_build(admin, run, Build("index", "small", OPTIONS, plan))
    workers = [register("index") for _ in range(3)]
    held: list[tuple[Session, Job]] = []
    for _ in range(300):
        if state_of(admin)["finished"]:
            break
        worker = chance.choice(workers)
        match chance.choice(("claim", "claim", "complete", "complete", "late", "fail", "release", "die", "retry")):
            case "claim":
                held += [(worker, job) for job in worker.claim(chance.randint(1, 3))]
            case "die":
                expire(worker)
            case "retry":
                if dead := choose(admin, Choice(), "retry", ("dead",)):
                    retry(admin, dead)
            case verb if held:
                of, job = chance.choice(held[-6:])
                try:
                    _end(of, job, verb)
                except LeaseLost:
                    held.remove((of, job))
        _check_steps(admin, plan)
    assert state_of(admin)["finished"]
    assert Counter(state for _, state in units(admin)) == {"done": sum(n for _, n in plan)}
    assert scalar(admin, "SELECT sum(n) FROM tracker.tally WHERE account = 'jobs' AND label = 'index'") == len(
        units(admin)
    )


def _end(session: Session, job: Job, verb: str) -> None:
    match verb:
        case "fail":
            session.fail(job, "x")
        case "release":
            session.release(job)
        case _:
            session.complete(job, result())


def _check_steps(admin: Connection, plan: list[tuple[str, int]]) -> None:
    """Each step that has begun has all its units once, and every step before it is done."""
    there = Counter(unit.split()[0] for unit, _ in units(admin))
    assert len(dict(units(admin))) == len(units(admin))
    begun = [name for name, n in plan if n and there[name]]
    wanted = [name for name, n in plan if n]
    assert begun == wanted[: len(begun)]
    assert all(there[name] == dict(plan)[name] for name in begun)
    unfinished = {unit.split()[0] for unit, state in units(admin) if state != "done"}
    assert unfinished <= set(begun[-1:])
    row = state_of(admin)
    assert row["units_left"] == sum(state != "done" for _, state in units(admin))
