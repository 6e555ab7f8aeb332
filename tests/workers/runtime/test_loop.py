"""The loop when work fails: a failed job does not end the worker, a failing machine does."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import pytest
import trio
from trio.testing import MockClock

from dataset.store.store import Store
from tracker.errors import DatabaseDown, LeaseLost, Refused
from tracker.protocol.session import Job, Session
from workers.errors import CannotWork, Stopped
from workers.runtime.context import WorkContext
from workers.runtime.loop import MAX_FAILURES, Stage, StopWhen, run


@dataclass
class Tracker:
    """Stands in for a session and records its calls."""

    kind: str = "extract"
    said: list[str] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    beats: list[str] = field(default_factory=lambda: ["active"])
    refuses_to_leave: bool = False
    more: Sequence[object] = ()
    waits: dict[str, Any] = field(default_factory=lambda: {"next_try_seconds": None})
    settings: dict[str, Any] = field(default_factory=lambda: {"lease_seconds": 60})

    def heartbeat(self, _progress: int) -> str:
        return self.beats.pop(0) if len(self.beats) > 1 else self.beats[0]

    def release(self, job: Job) -> None:
        self.said.append(f"release {job.job_id}")
        if job.job_id in self.lost:
            raise LeaseLost("taken over")

    def fail(self, job: Job, error: str) -> str:
        self.said.append(f"fail {job.job_id} {error}")
        return "ready"

    def is_idle(self) -> bool:
        return not self.more

    def waits_for(self) -> dict[str, Any]:
        return self.waits

    def leave(self) -> None:
        self.said.append("leave")
        if self.refuses_to_leave:
            raise Refused("worker is not registered")


def job(number: int) -> Job:
    return Job(number, uuid4(), "extract", 1, 1, "run", {}, {}, "out")


@dataclass
class Planned(Stage[Job]):
    """Claims and raises as planned."""

    kind = "extract"
    unit = "images"

    claims: list[list[int] | Exception]
    raises: dict[int, Exception] = field(default_factory=dict)

    def claim(self, _context: WorkContext) -> Sequence[Job]:
        claimed = self.claims.pop(0) if self.claims else []
        if isinstance(claimed, Exception):
            raise claimed
        return [job(number) for number in claimed]

    async def work(self, held: Sequence[Job], _context: WorkContext) -> Mapping[str, object]:
        for one in held:
            if one.job_id in self.raises:
                raise self.raises[one.job_id]
        return {}


def work(stage: Planned, tracker: Tracker) -> list[str]:
    """Run the loop until idle, on a clock that jumps over every pause."""
    tracker.more = stage.claims
    context = WorkContext(cast(Session, tracker), cast(Store, None))
    trio.run(run, stage, context, StopWhen(until_idle=True), clock=MockClock(autojump_threshold=0))
    return tracker.said


def test_a_failed_job_is_returned_with_its_reason_and_the_worker_continues() -> None:
    stage = Planned([[1], [2]], {1: ValueError("bad record")})
    assert work(stage, Tracker()) == ["fail 1 ValueError: bad record", "leave"]
    assert stage.claims == []


def test_a_machine_on_which_all_jobs_fail_gives_up() -> None:
    numbers = range(MAX_FAILURES + 5)
    stage = Planned([[n] for n in numbers], {n: OSError("disk full") for n in numbers})
    tracker = Tracker()
    with pytest.raises(CannotWork, match=f"{MAX_FAILURES} jobs in a row"):
        work(stage, tracker)
    assert tracker.said[-1] == "leave"
    assert len(stage.claims) == 5


def test_a_lost_lease_gives_the_other_jobs_of_the_claim_back() -> None:
    tracker = Tracker(lost={2})
    assert work(Planned([[1, 2, 3]], {2: LeaseLost("taken over")}), tracker) == [
        "release 1",
        "release 2",
        "release 3",
        "leave",
    ]


def test_a_claim_whose_jobs_went_to_another_worker_is_repeated() -> None:
    stage = Planned([LeaseLost("claim again"), [1]])
    assert work(stage, Tracker()) == ["leave"]
    assert stage.claims == []


def test_a_worker_that_cannot_do_such_work_gives_it_back_and_ends() -> None:
    tracker = Tracker()
    with pytest.raises(CannotWork, match="no model"):
        work(Planned([[1], [2]], {1: CannotWork("no model")}), tracker)
    assert tracker.said == ["release 1", "leave"]


def test_stopped_work_is_returned_without_using_up_an_attempt() -> None:
    assert work(Planned([[1]], {1: Stopped("asked to stop")}), Tracker()) == ["release 1", "leave"]


def test_a_drained_worker_claims_nothing_more() -> None:
    stage = Planned([[n] for n in range(1000)])
    work(stage, Tracker(beats=["draining"]))
    assert len(stage.claims) > 900


def test_a_database_that_stays_away_ends_the_worker() -> None:
    with pytest.raises(DatabaseDown):
        work(Planned([DatabaseDown("gone")]), Tracker())


def test_a_worker_that_has_already_left_ends_without_an_error() -> None:
    tracker = Tracker(refuses_to_leave=True)
    assert work(Planned([[1]]), tracker) == ["leave"]


def test_a_thread_is_told_to_stop_when_the_beat_has_failed() -> None:
    at_work, told = threading.Event(), []

    class Failing(Tracker):
        def heartbeat(self, _progress: int) -> str:
            at_work.wait(60)
            raise DatabaseDown("gone")

    class Threaded(Planned):
        async def work(self, _held: Sequence[Job], context: WorkContext) -> Mapping[str, object]:
            at_work.set()
            told.append(await trio.to_thread.run_sync(context.stopping.wait, 60))
            return {}

    with pytest.raises(DatabaseDown):
        work(Threaded([[1]]), Failing())
    assert told == [True]


def test_urgent_news_is_sent_early_but_heartbeats_keep_a_minimum_distance() -> None:
    beats: list[float] = []

    class Urgent(Planned):
        async def beat(self, context: WorkContext) -> str:
            context.urgent = trio.Event()
            beats.append(trio.current_time())
            return await super().beat(context)

        async def work(self, held: Sequence[Job], context: WorkContext) -> Mapping[str, object]:
            for seconds in (1, 5, 0.5, 30):
                await trio.sleep(seconds)
                context.urgent.set()
            await trio.sleep(1)
            return {}

    context = WorkContext(cast(Session, Tracker()), cast(Store, None))
    trio.run(run, Urgent([[1]]), context, StopWhen(once=True), clock=MockClock(autojump_threshold=0.1))
    assert [round(at - beats[0], 1) for at in beats] == [0, 3, 6, 9, 24, 36.5]


def test_a_worker_that_waits_says_what_for_and_when_something_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "shoal.worker")
    waits = {"closed": False, "retries": 0, "jobs_before": 3, "again": 12, "next_try_seconds": 540.4}
    work(Planned([[] for _ in range(400)]), Tracker(waits=waits))
    told = [record.message for record in caplog.records if "worker.waiting" in record.message]
    assert told[0] == "worker.waiting stage=extract for jobs_before=3 again=12 next_try_seconds=540"
    assert 2 <= len(told) < 100  # not at each of 400 claims
    caplog.clear()
    nothing = dict.fromkeys(("closed", "retries", "jobs_before", "again", "next_try_seconds"))
    work(Planned([[] for _ in range(40)]), Tracker(waits=nothing))
    assert "worker.waiting stage=extract for more jobs" in caplog.text
