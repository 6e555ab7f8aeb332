"""The worker's loop: claim, work, complete, until it is told to stop or nothing is left.

A stage says what to claim and how to work; the loop does what all stages need: the beat, the signals, giving work back,
and one log line a job. A job's failure is the job's (`fail`, and another try later); only what makes this worker unfit
(CannotWork, a database that stays away) ends it.
"""

import logging
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import trio

from tracker.errors import DatabaseDown, LeaseLost, Refused
from tracker.session import Batch, Job
from workers.desk import Desk
from workers.errors import CannotWork, Stopped

log = logging.getLogger("shoal.worker")

# Four beats in a lease: three may be lost.
BEATS_IN_A_LEASE = 4
# How long an idle worker waits before it asks again: 3,000 idle workers then ask some 600 times a second at most.
IDLE_SECONDS = (0.5, 5.0)
# One that ends by itself asks more often: its end is waited for.
UNTIL_IDLE_SECONDS = 1.0

Held = TypeVar("Held", Job, Batch)


class Stage(Protocol, Generic[Held]):
    @property
    def kind(self) -> str:
        """The queue."""

    def claim(self, desk: Desk) -> Sequence[Held]:
        """Ask the tracker for work; called in a thread."""

    async def work(self, held: Sequence[Held], desk: Desk) -> Mapping[str, object]:
        """Do the work and complete it; what the log line should say of it.

        Raises:
            Stopped: asked to stop before it was done; the loop gives the work back.
            CannotWork: this worker cannot do such work; the loop gives it back, and the worker ends.
        """


@dataclass(frozen=True, slots=True)
class Patience:
    """When the loop ends by itself: after one claim's work, or when nothing can come any more."""

    once: bool = False
    until_idle: bool = False


async def run(stage: Stage[Held], desk: Desk, patience: Patience) -> None:
    """Work until asked to stop (SIGTERM, SIGINT, a drain by the tracker) or `patience` ends.

    Raises:
        CannotWork: this worker is not fit for what it was given.
        DatabaseDown: the tracker stayed away.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_signals, desk)
        nursery.start_soon(_beat, desk)
        try:
            await _work(stage, desk, patience)
            await trio.to_thread.run_sync(desk.session.leave)
        finally:
            nursery.cancel_scope.cancel()


async def _work(stage: Stage[Held], desk: Desk, patience: Patience) -> None:
    idle_seconds = IDLE_SECONDS[0]
    while not desk.stop.is_set():
        held = await trio.to_thread.run_sync(stage.claim, desk)
        if held:
            idle_seconds = IDLE_SECONDS[0]
            await _one(stage, held, desk)
        elif patience.until_idle and await trio.to_thread.run_sync(desk.session.is_idle):
            return
        if patience.once:
            return
        if not held:
            with trio.move_on_after(idle_seconds * random.uniform(0.5, 1.5)):  # noqa: S311 — spreads the asking
                await desk.stop.wait()
            idle_seconds = min(2 * idle_seconds, UNTIL_IDLE_SECONDS if patience.until_idle else IDLE_SECONDS[1])


async def _one(stage: Stage[Held], held: Sequence[Held], desk: Desk) -> None:
    started = time.monotonic()
    jobs = ",".join(str(job.job_id) for job in held)
    try:
        said = await stage.work(held, desk)
    except LeaseLost as error:
        log.warning("job.lost stage=%s job=%s error=%r", stage.kind, jobs, str(error))
        return
    except Stopped:
        await _each(held, desk.session.release)
        log.info("job.released stage=%s job=%s", stage.kind, jobs)
        return
    except CannotWork:
        await _each(held, desk.session.release)
        raise
    except DatabaseDown:
        raise
    except Exception as error:  # whatever a job dies of, the worker goes on and the job is kept
        log.exception("job.failed stage=%s job=%s", stage.kind, jobs)
        reason = f"{type(error).__name__}: {error}"
        await _each(held, lambda job: desk.session.fail(job, reason))
        return
    facts = " ".join(f"{key}={value}" for key, value in said.items())
    log.info("job.completed stage=%s job=%s %s seconds=%.1f", stage.kind, jobs, facts, time.monotonic() - started)


async def _each(held: Sequence[Held], verb: Callable[[Held], object]) -> None:
    """Give each job back; one that was taken over meanwhile is another's."""
    for job in held:
        try:
            await trio.to_thread.run_sync(verb, job)
        except LeaseLost as error:
            log.warning("job.lost job=%s error=%r", job.job_id, str(error))


async def _beat(desk: Desk) -> None:
    pause = float(desk.session.settings["lease_seconds"]) / BEATS_IN_A_LEASE
    while True:
        try:
            state = await trio.to_thread.run_sync(desk.session.heartbeat, desk.progress)
        except Refused as error:
            log.warning("worker.evicted error=%r", str(error))
            state = "draining"
        if state != "active":
            desk.ask_to_stop()
        await trio.sleep(pause)


async def _watch_signals(desk: Desk) -> None:
    """The first signal drains; the second one ends the process as it would without us."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("worker.stopping signal=%s", signal.Signals(number).name)
            desk.ask_to_stop()
            break
