"""The worker's loop: claim, work, complete, until the worker is told to stop or no work is left.

A stage claims and works; the loop does what all stages need: heartbeats, signals, returning work, and one log line per
job. A job that fails is tried again later, and the worker continues. Only CannotWork and a database that stays down end
the worker.
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

# Four heartbeats per lease: three may be lost.
BEATS_IN_A_LEASE = 4
# Urgent news waits at most this long; 3,000 workers then send at most 1,000 heartbeats a second.
LEAST_BEAT_SECONDS = 3.0
# How long an idle worker waits before it claims again; 3,000 idle workers then claim about 600 times a second.
IDLE_SECONDS = (0.5, 5.0)
# A worker with --until-idle claims more often, because a person waits for it to end.
UNTIL_IDLE_SECONDS = 1.0
# A worker that has waited for so long logs what for, and again after the second number of seconds.
WAITING_SECONDS = (10.0, 300.0)
# A machine with a full disk or a broken GPU would use up the attempts of every job it claims. So a worker waits longer
# after each failure in a row, and gives up after this many.
MAX_FAILURES = 8
MAX_PAUSE_SECONDS = 60.0

Held = TypeVar("Held", Job, Batch)


class Stage(Protocol[Held]):
    """One kind of work. A stage inherits from this class and overrides the defaults that do not fit it."""

    kind: ClassVar[str]
    """The name of the queue."""
    unit: ClassVar[str]
    """The unit of the stage's progress: links, rows or samples."""
    abreast: ClassVar[int] = 1
    """How many claims one worker works on at the same time, each under its own lease."""

    def claim(self, context: WorkContext) -> Sequence[Held]:
        """Claim work from the tracker; called in a thread."""

    async def work(self, held: Sequence[Held], context: WorkContext) -> Mapping[str, object]:
        """Do the work and complete it; return the facts for the log line.

        Raises:
            Stopped: the worker was asked to stop before the work was done; the loop returns the work.
            CannotWork: this worker cannot do such work; the loop returns the work, and the worker ends.
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
    """When the loop ends by itself: after one claim, or when the queue is empty and no more jobs can come."""

    once: bool = False
    until_idle: bool = False


async def run(stage: Stage[Held], context: WorkContext, stop_when: StopWhen) -> None:
    """Work until asked to stop (SIGTERM, SIGINT, a drain by the tracker) or until `stop_when` applies.

    Raises:
        CannotWork: this worker cannot do the work that it was given.
        DatabaseDown: the database stayed down.
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
    """Leave; it is not an error if the worker has left already (a lost reply, an eviction)."""
    try:
        await trio.to_thread.run_sync(context.session.leave)
    except Refused as error:
        log.info("worker.gone said=%r", str(error))


async def _abreast(stage: Stage[Held], context: WorkContext, stop_when: StopWhen) -> None:
    """Work on `stage.abreast` claims at the same time, each under its own lease.

    If one of them ends with an error, the others stop in an orderly way and return their work.
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
    tell_at = trio.current_time() + WAITING_SECONDS[0]
    while not context.stop.is_set():
        held = await _claim(stage, context)
        if held:
            idle_seconds = IDLE_SECONDS[0]
            failures = 0 if await _one(stage, held, context) else failures + 1
            tell_at = trio.current_time() + WAITING_SECONDS[0]
        elif stop_when.until_idle and await trio.to_thread.run_sync(context.session.is_idle):
            return
        elif trio.current_time() >= tell_at:
            await _tell_waiting(stage, context)
            tell_at = trio.current_time() + WAITING_SECONDS[1]
        if stop_when.once:
            return
        if failures >= MAX_FAILURES:
            raise CannotWork(
                f"{failures} jobs in a row have failed here: see the log above, then repair this machine or the jobs"
            )
        if failures:
            await _pause(min(2.0**failures, MAX_PAUSE_SECONDS), context)
        elif not held:
            await _pause(idle_seconds, context)
            idle_seconds = min(2 * idle_seconds, UNTIL_IDLE_SECONDS if stop_when.until_idle else IDLE_SECONDS[1])


async def _tell_waiting(stage: Stage[Held], context: WorkContext) -> None:
    """Log what the worker waits for, and in how many seconds a job or link is tried again."""
    found = await trio.to_thread.run_sync(context.session.waits_for)
    said = " ".join(f"{name}={value}" for name, value in found.items() if name != "next_try_seconds" and value)
    if found["next_try_seconds"] is not None:
        said += f" next_try_seconds={max(0.0, found['next_try_seconds']):.0f}"
    log.info("worker.waiting stage=%s for %s", stage.kind, said.strip() or "more jobs")


async def _claim(stage: Stage[Held], context: WorkContext) -> Sequence[Held]:
    try:
        return await trio.to_thread.run_sync(stage.claim, context)
    except LeaseLost as error:  # the reply was lost for so long that the jobs went to another worker
        log.warning("claim.lost stage=%s error=%r", stage.kind, str(error))
        return []


async def _pause(seconds: float, context: WorkContext) -> None:
    """Wait about `seconds`, or until asked to stop; the time is random, so that many workers do not claim at the same
    moment.
    """
    with trio.move_on_after(seconds * random.uniform(0.5, 1.5)):  # noqa: S311
        await context.stop.wait()


async def _one(stage: Stage[Held], held: Sequence[Held], context: WorkContext) -> bool:
    """Do the work of one claim; return False if it failed."""
    started = time.monotonic()
    jobs = ",".join(str(job.job_id) for job in held)
    try:
        facts = await stage.work(held, context)
    except LeaseLost as error:
        log.warning("job.lost stage=%s job=%s error=%r", stage.kind, jobs, str(error))
        await _each(held, context.session.release)  # releases the jobs that this worker still holds
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
    except Exception as error:  # whatever the cause, the worker continues and the job is kept
        log.exception("job.failed stage=%s job=%s", stage.kind, jobs)
        reason = f"{type(error).__name__}: {error}"
        await _each(held, lambda job: context.session.fail(job, reason))
        return False
    said = " ".join(f"{key}={value}" for key, value in facts.items())
    log.info("job.completed stage=%s job=%s %s seconds=%.1f", stage.kind, jobs, said, time.monotonic() - started)
    return True


async def _each(held: Sequence[Held], verb: Callable[[Held], object]) -> None:
    """Call `verb` for each job; a job whose lease was lost belongs to another worker and is skipped."""
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
            context.ask_to_stop()  # or a working thread would delay the worker's end
            raise
        if state != "active":
            context.ask_to_stop()
        await trio.sleep(min(pause, LEAST_BEAT_SECONDS))
        with trio.move_on_after(max(0.0, pause - LEAST_BEAT_SECONDS)):
            await context.urgent.wait()


async def _watch_signals(context: WorkContext) -> None:
    """Drain at the first signal; end the process at once at the second, so that its leases expire."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if context.stopping.is_set():
                os._exit(128 + number)  # a working thread would keep the interpreter alive
            log.info("worker.stopping signal=%s", signal.Signals(number).name)
            context.ask_to_stop()
