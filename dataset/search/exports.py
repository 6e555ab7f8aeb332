"""Exports: everything above a threshold, the first N results, or named rows, as a file; jobs with progress.

One thread works on one export at a time, so exports never take more than a core from searches. A job is known by a
random id, which is all that is needed to see and download it. Files are deleted after `KEPT_SECONDS`, and at the end.
"""

import queue
import secrets
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from dataset.search.engine import Ids, Vectors, Where
from dataset.search.errors import SearchError
from dataset.search.export_files import ExportFormat, open_writer
from dataset.search.questions import Question
from dataset.search.service import ServedIndex

MOST_ROWS = 1_000_000
FIRST_DEPTH = 10_000
CHUNK_ROWS = 2_000
MOST_WAITING = 16
MOST_OF_ADDRESS = 2
KEPT_SECONDS = 24 * 3600.0
MOST_BYTES = 10 << 30
"""Of all finished files; the oldest are deleted first."""


class ExportState(StrEnum):
    """The state of an export."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Export:
    """An export job. `total` is known once the search has ended."""

    id: str
    served: ServedIndex
    question: Question
    where: Where | None
    vector: Vectors | None
    """Of the query, (D,); None if rows are named."""
    ids: Sequence[int] | None
    """The rows that are written, in this order; None if they are searched."""
    most: int
    columns: Sequence[str]
    format: ExportFormat
    address: str
    path: Path
    state: ExportState = ExportState.WAITING
    rows: int = 0
    total: int | None = None
    bytes: int = 0
    message: str = ""
    ended: float = 0.0

    def status(self) -> dict[str, Any]:
        """Return what its client may see."""
        return {
            "id": self.id,
            "state": self.state.value,
            "rows": self.rows,
            "total": self.total,
            "bytes": self.bytes,
            "message": self.message,
        }


class Exports:
    """The export jobs of a server, in a folder of its own."""

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="shoal-exports-", dir=folder)
        self._jobs: dict[str, Export] = {}
        self._waiting: queue.SimpleQueue[Export | None] = queue.SimpleQueue()
        self._finished: deque[Export] = deque()
        self.changed = threading.Condition()
        """Notified when an export has ended."""
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="exports", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the running export, and delete all files."""
        with self.changed:
            self._is_closed = True
            for job in self._jobs.values():
                if job.state in (ExportState.WAITING, ExportState.RUNNING):
                    job.state = ExportState.CANCELLED
        self._waiting.put(None)
        self._thread.join()
        self._temporary.cleanup()

    def add(
        self,
        served: ServedIndex,
        question: Question,
        *,
        where: Where | None,
        vector: Vectors | None,
        ids: Sequence[int] | None = None,
        most: int,
        columns: Sequence[str],
        format: ExportFormat = ExportFormat.PARQUET,  # noqa: A002 - its name in the API
        address: str,
    ) -> Export:
        """Add a job.

        Raises: SearchError (429) when too many wait, of this address or in all.
        """
        with self.changed:
            open_jobs = [job for job in self._jobs.values() if job.state in (ExportState.WAITING, ExportState.RUNNING)]
            of_address = sum(job.address == address for job in open_jobs)
            if len(open_jobs) >= MOST_WAITING or of_address >= MOST_OF_ADDRESS:
                raise SearchError(
                    429, "Too many exports wait: try again when one has ended.", headers={"Retry-After": "60"}
                )
            self._forget_old()
            name = secrets.token_urlsafe(16)
            path = Path(self._temporary.name) / f"{name}.{format}"
            job = Export(name, served, question, where, vector, ids, most, tuple(columns), format, address, path)
            self._jobs[name] = job
        self._waiting.put(job)
        return job

    def get(self, name: str) -> Export:
        """Return a job.

        Raises: SearchError (404).
        """
        if (job := self._jobs.get(name)) is None:
            raise SearchError(404, "There is no such export, or it was deleted: exports are kept for a day.")
        return job

    def cancel(self, name: str) -> Export:
        """Cancel a job, or delete the file of a finished one."""
        job = self.get(name)
        with self.changed:
            if job.state in (ExportState.WAITING, ExportState.RUNNING, ExportState.DONE):
                job.state = ExportState.CANCELLED
                job.path.unlink(missing_ok=True)
        return job

    def _forget_old(self) -> None:
        """Delete files that are old or too many."""
        held = sum(job.bytes for job in self._finished)
        while self._finished and (
            monotonic() - self._finished[0].ended > KEPT_SECONDS or held > MOST_BYTES or len(self._finished) > 1_000
        ):
            job = self._finished.popleft()
            held -= job.bytes
            job.path.unlink(missing_ok=True)
            self._jobs.pop(job.id, None)

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None:
            with self.changed:
                if job.state is not ExportState.WAITING:
                    continue
                job.state = ExportState.RUNNING
            try:
                write_export(job, lambda job=job: job.state is not ExportState.RUNNING)  # type: ignore[misc]
                message = ""
            except Exception as error:  # noqa: BLE001 - one export's failure must not end the thread of all
                message = str(error) or type(error).__name__
            with self.changed:
                if job.state is ExportState.RUNNING:
                    job.state, job.message = (ExportState.FAILED, message) if message else (ExportState.DONE, "")
                if job.state is not ExportState.DONE:
                    with suppress(OSError):
                        job.path.unlink(missing_ok=True)
                job.bytes = job.path.stat().st_size if job.path.exists() else 0
                job.ended = monotonic()
                self._finished.append(job)
                self.changed.notify_all()


def write_export(job: Export, is_cancelled: Callable[[], bool]) -> None:
    """Search, and write the visible rows with id, similarity and their columns; the best first.

    Rows that were named by their ids have no similarity.

    Raises: SearchError, OSError.
    """
    engine, screen = job.served.engine, job.served.screen
    ids, similarities = _wanted(job)
    job.total = len(ids)
    writer = open_writer(job.path, job.format, job.columns)
    try:
        for start in range(0, max(1, len(ids)), CHUNK_ROWS):
            if is_cancelled():
                return
            some, near = ids[start : start + CHUNK_ROWS], similarities[start : start + CHUNK_ROWS]
            rows = engine.rows(some, job.columns)
            shown = screen.visible(engine, some) & np.array([row is not None for row in rows], bool)
            kept = [
                {**row, "id": id_, "similarity_to_query": similarity}
                for id_, similarity, row, is_shown in zip(some.tolist(), near, rows, shown, strict=True)
                if is_shown and row is not None
            ]
            writer.write(kept)
            job.rows += len(kept)
    finally:
        writer.close()


def _wanted(job: Export) -> tuple[Ids, list[float | None]]:
    """Return the ids to write and their similarities, the best first."""
    if job.vector is None:
        named = np.array(job.ids, np.int64)
        return named, [None] * len(named)
    ids, similarities = _nearest(job, job.vector)
    return ids, similarities.tolist()


def _nearest(job: Export, vector: Vectors) -> tuple[Ids, Vectors]:
    """Return ids and similarities of all results, the best first; the search is made deeper until it is deep enough."""
    engine, question = job.served.engine, job.question
    depth = job.most if question.at_least is None else FIRST_DEPTH
    while True:
        depth = min(depth, job.most)
        (found,) = engine.search(
            vector[None], depth, modality=question.modality, where=job.where, collapse=question.collapse
        )
        ids, similarities = found.ids, found.similarities
        least = -2.0 if question.at_least is None else question.at_least
        if len(ids) < depth or depth == job.most or similarities[-1] < least:
            return ids[similarities >= least], similarities[similarities >= least]
        depth *= 8
