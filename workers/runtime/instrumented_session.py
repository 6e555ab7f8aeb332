"""The tracker's session with timed calls and counted jobs, for the metrics and the progress bar.

Invariant: every public method of `Session` except `close` is a verb, and each call of a verb is timed under its name. A
verb that is added to `Session` is timed without a change here.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from typing import Any, Protocol, Self, TypeVar
from uuid import UUID

from tracker.errors import LeaseLost
from tracker.protocol.session import Added, Batch, DownloadBeat, Job, Session
from workers.runtime import metrics


class JobMeter(Protocol):
    """The part of a stage that knows the content of its jobs and results."""

    def size(self, held: Any) -> int: ...
    def count(self, result: Mapping[str, Any]) -> None: ...


@dataclass(slots=True)
class InFlight:
    """The jobs that this worker holds and how many have ended; other threads may read it."""

    sizes: Mapping[int, int] = field(default_factory=dict)
    """Sizes by job id, in the stage's unit; 0 means unknown. Replaced as a whole, never changed."""
    completed: int = 0
    failed: int = 0


T = TypeVar("T", bound=type[Session])


def session_verbs() -> list[str]:
    """Return the names of the session's verbs, sorted."""
    named = inspect.getmembers(Session, inspect.isfunction)
    return [name for name, _ in named if not name.startswith("_") and name != "close"]


def _timing_every_verb(session: T) -> T:
    """Wrap each verb of a class, inherited ones too, so that it is timed under its name."""
    for name in session_verbs():
        setattr(session, name, _timed(name, getattr(session, name)))
    return session


def _timed(name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
    timing = metrics.TRACKER_CALLS.labels(name)

    @wraps(verb)
    def call(*arguments: Any, **named: Any) -> Any:
        with timing.time():
            return verb(*arguments, **named)

    return call


@_timing_every_verb
class InstrumentedSession(Session):
    def __init__(self, url: str, kind: str, worker_id: UUID, settings: Mapping[str, Any]) -> None:
        super().__init__(url, kind, worker_id, settings)
        self.in_flight = InFlight()
        self.meter: JobMeter | None = None
        """The worker's stage, set before the first claim; without it sizes are unknown and results are not counted."""
        self._told = 0

    @classmethod
    def register(cls, url: str, kind: str, *, token: str | None = None) -> Self:
        """Register this process as a worker of a kind, and time the call."""
        with metrics.TRACKER_CALLS.labels("register").time():
            return super().register(url, kind, token=token)

    def claim(self, want: int = 1) -> list[Job]:
        held = super().claim(want)
        self._take(held)
        return held

    def draw(self) -> Batch | None:
        batch = super().draw()
        if batch:
            self._take([batch])
        return batch

    def complete(self, job: Job | Batch, result: Mapping[str, Any]) -> None:
        with self._ending(job):
            super().complete(job, result)
        self._count(result)

    def complete_ingest(self, results: Sequence[tuple[Job, Mapping[str, Any]]], added: Sequence[Added]) -> None:
        with self._ending(*(job for job, _ in results)):
            super().complete_ingest(results, added)
        for _, result in results:
            self._count(result)

    def complete_list(self, job: Job, result: Mapping[str, Any]) -> None:
        with self._ending(job):
            super().complete_list(job, result)
        self._count(result)

    def fail(self, job: Job | Batch, error: str) -> str:
        with self._ending(job, end="failed"):
            return super().fail(job, error)

    def release(self, job: Job | Batch) -> None:
        with self._ending(job, end="released"):
            super().release(job)

    def heartbeat(self, progress: int) -> str:
        state = super().heartbeat(progress)
        self._count_progress(progress)
        return state

    def heartbeat_download(self, progress: int, since: datetime | None, report: Mapping[str, Any]) -> DownloadBeat:
        news = super().heartbeat_download(progress, since, report)
        self._count_progress(progress)
        return news

    def _count_progress(self, progress: int) -> None:
        metrics.PROGRESS.inc(max(progress - self._told, 0))
        self._told = max(progress, self._told)

    def _take(self, claimed: Sequence[Job | Batch]) -> None:
        sizes = {job.job_id: self.meter.size(job) if self.meter else 0 for job in claimed}
        self.in_flight.sizes = {**self.in_flight.sizes, **sizes}

    def _count(self, result: Mapping[str, Any]) -> None:
        if self.meter:
            self.meter.count(result)

    @contextmanager
    def _ending(self, *jobs: Job | Batch, end: str = "completed") -> Iterator[None]:
        """Count jobs as ended by `end`, or as lost if another worker has taken them."""
        try:
            yield
        except LeaseLost:
            self._end(jobs, "lost")
            raise
        self._end(jobs, end)

    def _end(self, jobs: Sequence[Job | Batch], end: str) -> None:
        ended = {job.job_id for job in jobs}
        self.in_flight.sizes = {job: size for job, size in self.in_flight.sizes.items() if job not in ended}
        metrics.JOBS.labels(self.kind, end).inc(len(jobs))
        self.in_flight.completed += len(jobs) * (end == "completed")
        self.in_flight.failed += len(jobs) * (end == "failed")
