"""The stage of a queue whose jobs are units of builds over a release: claim a unit, do it in a process, complete it.

Progress is the CPU time of the unit's process: a unit that computes keeps its lease; a unit that stands still loses it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import trio

from tracker.protocol.session import Job
from workers.errors import CannotWork
from workers.runtime import metrics
from workers.runtime.context import WorkContext
from workers.runtime.loop import Stage
from workers.runtime.unit_process import UnitRequest, run_in_process

RELEASES = "releases/"
_PREFIX = "shoal-unit-"


@dataclass(slots=True)
class UnitStage(Stage[Job]):
    """The base class of such stages; a subclass names its queue and its module."""

    unit = "CPU-ms"
    module: ClassVar[str]
    """`python -m` of this module does a unit; see unit_process.py."""

    scratch: Path
    """A local folder; each unit gets a subfolder, which is deleted afterwards."""
    max_bytes: int | None = None

    def claim(self, context: WorkContext) -> Sequence[Job]:
        return context.session.claim()

    async def work(self, held: Sequence[Job], context: WorkContext) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(self._work, held[0], context)

    def count(self, result: Mapping[str, Any]) -> None:
        metrics.UNIT_ROWS.inc(result["rows_in"])

    def options(self, job: Job) -> Mapping[str, Any]:
        """Return the options for the unit."""
        options: Mapping[str, Any] = job.payload["options"]
        return options

    def _work(self, job: Job, context: WorkContext) -> Mapping[str, object]:
        with scratch_folder(self.scratch) as folder:
            request = UnitRequest(
                store=context.store.uri,
                release=job.run.removeprefix(RELEASES),
                version=job.payload["version"],
                options=self.options(job),
                plan=job.payload["plan"],
                step=job.payload["step"],
                unit=job.payload["number"],
                scratch=str(folder),
                max_bytes=self.max_bytes,
            )
            result = run_in_process(self.module, request, context.step)
        context.session.complete(job, result_of(job, result))
        rows = {name: result[name] for name in ("rows_in", "rows_out")}
        return {"run": job.run, "step": request.step, "unit": request.unit, **rows, "files": len(result["files"])}


def result_of(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a unit's result as it is completed: the paths of files are in the release's folder."""
    files = [file | {"path": file["path"].removeprefix(f"{job.run}/")} for file in result["files"]]
    return {**result, "files": files}


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in `parent` for the block, and delete folders that ended processes left there.

    A process holds a lock on its folder, so a folder without a lock is not in use.

    Raises: CannotWork when `parent` cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(parent)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        held = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        folder = made.rename(parent / f"{_PREFIX}{made.name.removeprefix('.new-')}")
    except OSError as error:
        raise CannotWork(
            f"the scratch folder {parent} cannot be used ({error}): give another folder with --scratch"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _delete_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(held)
