"""The tracker's session, with its calls timed and its jobs counted: for metrics and for the bar on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tracker.errors import LeaseLost
from tracker.protocol.session import Added, Batch, Job, Session
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


class WatchedSession(Session):
    def __init__(self, url: str, kind: str, worker_id: UUID, settings: Mapping[str, Any]) -> None:
        super().__init__(url, kind, worker_id, settings)
        self.watched = Watched()
        self._told = 0

    def claim(self, want: int = 1) -> list[Job]:
        with _timed("claim"):
            held = super().claim(want)
        key = SIZES.get(self.kind)
        self._take({job.job_id: int(job.payload.get(key) or 0) if key else 0 for job in held})
        return held

    def draw(self) -> Batch | None:
        with _timed("draw"):
            batch = super().draw()
        if batch:
            self._take({batch.job_id: batch.n})
        return batch

    def complete(self, job: Job | Batch, result: Mapping[str, Any]) -> None:
        with _timed("complete"), self._ending(job):
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
        with _timed("complete"), self._ending(*(job for job, _ in results)):
            super().complete_ingest(results, added)
        fresh = sum(one.n for one in added)
        metrics.READ.inc(fresh + sum(result["duplicates"] for _, result in results))
        metrics.INGESTED.inc(fresh)

    def fail(self, job: Job | Batch, error: str) -> str:
        with _timed("fail"), self._ending(job, end="failed"):
            return super().fail(job, error)

    def release(self, job: Job | Batch) -> None:
        with _timed("release"), self._ending(job, end="released"):
            super().release(job)

    def heartbeat(self, progress: int) -> str:
        with _timed("heartbeat"):
            state = super().heartbeat(progress)
        metrics.PROGRESS.inc(max(progress - self._told, 0))
        self._told = max(progress, self._told)
        return state

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


@contextmanager
def _timed(verb: str) -> Iterator[None]:
    with metrics.TRACKER_CALLS.labels(verb).time():
        yield
