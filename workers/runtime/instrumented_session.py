"""The tracker's session, with its calls timed and its jobs counted: for metrics and for the bar on a terminal.

Invariant: every public method of `Session` but `close` is a verb, and each call of a verb is timed under its name, so
that one that is added to `Session` is timed without a word here.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from typing import Any, Self, TypeVar
from uuid import UUID

from tracker.errors import LeaseLost
from tracker.protocol.session import Added, Batch, Job, News, Session
from workers.runtime import metrics

# What a job's payload says of its size, in the steps in which its stage counts progress; extract's is not known before.
SIZES = {"ingest": "rows", "filter": "samples", "embed": "samples"}


@dataclass(slots=True)
class Watched:
    """What is at hand, for whoever looks from another thread."""

    held: Mapping[int, int] = field(default_factory=dict)
    """The jobs, with their links, rows or samples; 0: not known. Replaced as a whole, never changed."""
    completed: int = 0
    failed: int = 0


T = TypeVar("T", bound=type[Session])


def session_verbs() -> list[str]:
    """Return the names of the session's verbs, in order."""
    named = inspect.getmembers(Session, inspect.isfunction)
    return [name for name, _ in named if not name.startswith("_") and name != "close"]


def _timing_every_verb(session: T) -> T:
    """Wrap each verb of a class, its own or its parent's, to be timed under its name."""
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
class WatchedSession(Session):
    def __init__(self, url: str, kind: str, worker_id: UUID, settings: Mapping[str, Any]) -> None:
        super().__init__(url, kind, worker_id, settings)
        self.watched = Watched()
        self._told = 0

    @classmethod
    def register(cls, url: str, kind: str, *, token: str | None = None) -> Self:
        """Make this process known as a worker of a kind, and time it."""
        with metrics.TRACKER_CALLS.labels("register").time():
            return super().register(url, kind, token=token)

    def claim(self, want: int = 1) -> list[Job]:
        held = super().claim(want)
        key = SIZES.get(self.kind)
        self._take({job.job_id: int(job.payload.get(key) or 0) if key else 0 for job in held})
        return held

    def draw(self) -> Batch | None:
        batch = super().draw()
        if batch:
            self._take({batch.job_id: batch.n})
        return batch

    def complete(self, job: Job | Batch, result: Mapping[str, Any]) -> None:
        with self._ending(job):
            super().complete(job, result)
        match self.kind:
            case "extract":
                metrics.EXTRACTED.inc(result["candidates"])
            case "filter":
                metrics.SCORED.inc(result["kept"] + sum(result["dropped"].values()))
                metrics.KEPT.inc(result["kept"])
            case "embed":
                metrics.EMBEDDED.inc(result["embedded"])

    def complete_ingest(self, results: Sequence[tuple[Job, Mapping[str, Any]]], added: Sequence[Added]) -> None:
        with self._ending(*(job for job, _ in results)):
            super().complete_ingest(results, added)
        fresh = sum(one.n for one in added)
        metrics.READ.inc(fresh + sum(result["duplicates"] for _, result in results))
        metrics.INGESTED.inc(fresh)

    def complete_list(self, job: Job, result: Mapping[str, Any]) -> None:
        with self._ending(job):
            super().complete_list(job, result)
        metrics.EXTRACTED.inc(result["candidates"])

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

    def heartbeat_download(self, progress: int, since: datetime | None, report: Mapping[str, Any]) -> News:
        news = super().heartbeat_download(progress, since, report)
        self._count_progress(progress)
        return news

    def _count_progress(self, progress: int) -> None:
        metrics.PROGRESS.inc(max(progress - self._told, 0))
        self._told = max(progress, self._told)

    def _take(self, claimed: Mapping[int, int]) -> None:
        self.watched.held = {**self.watched.held, **claimed}

    @contextmanager
    def _ending(self, *jobs: Job | Batch, end: str = "completed") -> Iterator[None]:
        """Count how jobs end: as the block tries to, or lost to another worker."""
        try:
            yield
        except LeaseLost:
            self._end(jobs, "lost")
            raise
        self._end(jobs, end)

    def _end(self, jobs: Sequence[Job | Batch], end: str) -> None:
        ended = {job.job_id for job in jobs}
        self.watched.held = {job: size for job, size in self.watched.held.items() if job not in ended}
        metrics.JOBS.labels(self.kind, end).inc(len(jobs))
        self.watched.completed += len(jobs) * (end == "completed")
        self.watched.failed += len(jobs) * (end == "failed")
