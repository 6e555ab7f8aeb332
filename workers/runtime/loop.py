"""The worker's loop: claim, work, complete, until it is told to stop or nothing is left.

A stage says what to claim and how to work; the loop does what all stages need: the beat, the signals, giving work back,
and one log line a job. A job's failure is the job's (`fail`, and another try later); only what makes this worker unfit
(CannotWork, a database that stays away) ends it.
"""

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import trio

from tracker.errors import DatabaseDown, LeaseLost, Refused
from tracker.protocol.session import Batch, Job
from workers.errors import CannotWork, Stopped
from workers.runtime.context import WorkContext

log = logging.getLogger("shoal.worker")

# Four beats in a lease: three may be lost.
BEATS_IN_A_LEASE = 4
# What others should hear at once waits for no more than this; 3,000 workers then beat 1,000 times a second at the most.
LEAST_BEAT_SECONDS = 3.0
# How long an idle worker waits before it asks again: 3,000 idle workers then ask some 600 times a second at most.
IDLE_SECONDS = (0.5, 5.0)
# One that ends by itself asks more often: its end is waited for.
UNTIL_IDLE_SECONDS = 1.0
# A machine with a full disk or a broken GPU would use up the attempts of all jobs that it reaches: it waits longer
# after each failure in a row, and gives up after some.
MAX_FAILURES = 8
MAX_PAUSE_SECONDS = 60.0

Held = TypeVar("Held", Job, Batch)


class Stage(Protocol[Held]):
    """One kind of work. A stage inherits from this class and overrides the defaults that do not fit it."""

    kind: ClassVar[str]
    """The name of the queue."""
    unit: ClassVar[str]
    """What the stage counts as progress: links, rows, samples."""
    abreast: ClassVar[int] = 1
    """How many claims one worker works on at the same time, each under its own lease."""

    def claim(self, context: WorkContext) -> Sequence[Held]:
        """Ask the tracker for work; called in a thread."""

    async def work(self, held: Sequence[Held], context: WorkContext) -> Mapping[str, object]:
        """Do the work and complete it; return the facts for the log line.

        Raises:
            Stopped: the worker was asked to stop before the work was done; the loop gives the work back.
            CannotWork: this worker cannot do such work; the loop gives the work back, and the worker ends.
        """

    def size(self, held: Held) -> int:  # noqa: ARG002 — the default is for unknown sizes
        """Return the size of a job in the stage's unit; 0 means unknown."""
        return 0

    def count(self, result: Mapping[str, Any]) -> None:
        """Add a completed job's result to the metrics."""
        del result

    async def beat(self, context: WorkContext) -> str:
        """Send a heartbeat; return the worker's state, 'active' or 'draining'."""
        return await trio.to_thread.run_sync(context.session.heartbeat, context.progress)


@dataclass(frozen=True, slots=True)
class StopWhen:
    """When the loop ends by itself: after one claim's work, or when nothing can come any more."""

    once: bool = False
    until_idle: bool = False


async def run(stage: Stage[Held], context: WorkContext, stop_when: StopWhen) -> None:
    """Work until asked to stop (SIGTERM, SIGINT, a drain by the tracker) or `stop_when` ends.

    Raises:
        CannotWork: this worker is not fit for what it was given.
        DatabaseDown: the tracker stayed away.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_signals, context)
        nursery.start_soon(_beat, stage, context)
        try:
            await _abreast(stage, context, stop_when)
        except CannotWork:
            await _leave(context)
            raise
        else:
            await _leave(context)
        finally:
            context.ask_to_stop()
            nursery.cancel_scope.cancel()


async def _leave(context: WorkContext) -> None:
    """Leave; to have left already (the reply was lost, or we were evicted) is as good."""
    try:
        await trio.to_thread.run_sync(context.session.leave)
    except Refused as error:
        log.info("worker.gone said=%r", str(error))


async def _abreast(stage: Stage[Held], context: WorkContext, stop_when: StopWhen) -> None:
    """Work on as many claims at once as the stage wants (its `abreast`), each under its own lease.

    What ends one of them ends all, but in order: the others stop and give their work back.
    """
    ends: list[CannotWork | DatabaseDown] = []

    async def work() -> None:
        try:
            await _work(stage, context, stop_when)
        except (CannotWork, DatabaseDown) as error:
            ends.append(error)
            context.ask_to_stop()

    async with trio.open_nursery() as nursery:
        for _ in range(1 if stop_when.once else stage.abreast):
            nursery.start_soon(work)
    if ends:
        raise ends[0]


async def _work(stage: Stage[Held], context: WorkContext, stop_when: StopWhen) -> None:
    idle_seconds = IDLE_SECONDS[0]
    failures = 0  # in a row
    while not context.stop.is_set():
        held = await _claim(stage, context)
        if held:
            idle_seconds = IDLE_SECONDS[0]
            failures = 0 if await _one(stage, held, context) else failures + 1
        elif stop_when.until_idle and await trio.to_thread.run_sync(context.session.is_idle):
            return
        if stop_when.once:
            return
        if failures >= MAX_FAILURES:
            raise CannotWork(f"{failures} jobs in a row have failed here: see the log above, mend this machine or them")
        if failures:
            await _pause(min(2.0**failures, MAX_PAUSE_SECONDS), context)
        elif not held:
            await _pause(idle_seconds, context)
            idle_seconds = min(2 * idle_seconds, UNTIL_IDLE_SECONDS if stop_when.until_idle else IDLE_SECONDS[1])


async def _claim(stage: Stage[Held], context: WorkContext) -> Sequence[Held]:
    try:
        return await trio.to_thread.run_sync(stage.claim, context)
    except LeaseLost as error:  # the reply to a claim was lost for so long that its jobs went to another
        log.warning("claim.lost stage=%s error=%r", stage.kind, str(error))
        return []


async def _pause(seconds: float, context: WorkContext) -> None:
    """Wait about so long, or until asked to stop; the spread keeps many workers from asking in step."""
    with trio.move_on_after(seconds * random.uniform(0.5, 1.5)):  # noqa: S311
        await context.stop.wait()


async def _one(stage: Stage[Held], held: Sequence[Held], context: WorkContext) -> bool:
    """Do one claim's work; False when it failed."""
    started = time.monotonic()
    jobs = ",".join(str(job.job_id) for job in held)
    try:
        said = await stage.work(held, context)
    except LeaseLost as error:
        log.warning("job.lost stage=%s job=%s error=%r", stage.kind, jobs, str(error))
        await _each(held, context.session.release)  # of several, those that are still ours
        return True
    except Stopped:
        await _each(held, context.session.release)
        log.info("job.released stage=%s job=%s", stage.kind, jobs)
        return True
    except CannotWork:
        await _each(held, context.session.release)
        raise
    except DatabaseDown:
        raise
    except Exception as error:  # whatever a job dies of, the worker goes on and the job is kept
        log.exception("job.failed stage=%s job=%s", stage.kind, jobs)
        reason = f"{type(error).__name__}: {error}"
        await _each(held, lambda job: context.session.fail(job, reason))
        return False
    facts = " ".join(f"{key}={value}" for key, value in said.items())
    log.info("job.completed stage=%s job=%s %s seconds=%.1f", stage.kind, jobs, facts, time.monotonic() - started)
    return True


async def _each(held: Sequence[Held], verb: Callable[[Held], object]) -> None:
    """Give each job back; one that was taken over meanwhile is another's."""
    for job in held:
        try:
            await trio.to_thread.run_sync(verb, job)
        except LeaseLost as error:
            log.warning("job.lost job=%s error=%r", job.job_id, str(error))


async def _beat(stage: Stage[Held], context: WorkContext) -> None:
    pause = float(context.session.settings["lease_seconds"]) / BEATS_IN_A_LEASE
    while True:
        try:
            state = await stage.beat(context)
        except Refused as error:
            log.warning("worker.evicted error=%r", str(error))
            state = "draining"
        except DatabaseDown:
            context.ask_to_stop()  # a thread that works on would hold the worker's end up
            raise
        if state != "active":
            context.ask_to_stop()
        await trio.sleep(min(pause, LEAST_BEAT_SECONDS))
        with trio.move_on_after(max(0.0, pause - LEAST_BEAT_SECONDS)):
            await context.urgent.wait()


async def _watch_signals(context: WorkContext) -> None:
    """The first signal drains; the second one ends the process at once, and its leases run out."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if context.stopping.is_set():
                os._exit(128 + number)  # a thread in the middle of its work would hold the interpreter
            log.info("worker.stopping signal=%s", signal.Signals(number).name)
            context.ask_to_stop()
