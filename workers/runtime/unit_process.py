"""Do one unit of a build in a separate process, so that it can be killed, its memory is limited, and all its memory is
freed at the end.

    worker ──request, one line of JSON──▶ stdin               which stays open; the process ends when it is closed
    worker ◀──answer, one line of JSON── a pipe of its own    {"result": …}, {"error": sentence} or {"missing": module}

Invariant: a unit may be killed at any time, because it is idempotent. The process leads a group, which is killed as a
whole. Output of libraries to stdout is sent to stderr.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.formats.releases import ReleaseError, open_release, require_live
from dataset.formats.steps import Step, UnitResult, plan_to_json
from dataset.store.store import Store
from workers.errors import CannotWork, WorkerError

LOOK_SECONDS = 0.5


class UnitFailed(WorkerError):
    """A unit failed; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRequest:
    """A unit of a build, from the job; `version` is the release's when the build began, and `max_bytes` limits the
    memory that is not a mapped file.
    """

    store: str
    release: str
    options: Mapping[str, Any]
    version: str
    plan: list[list[Any]]
    step: str
    unit: int
    scratch: str
    max_bytes: int | None


class PlanSteps(Protocol):
    """Computes the plan of a build from the release."""

    def __call__(self, store: Store, release: str, options: Mapping[str, Any]) -> list[Step]: ...


class RunUnit(Protocol):
    """Does a unit; `scratch` is a local folder that is deleted afterwards."""

    def __call__(
        self, store: Store, release: str, options: Mapping[str, Any], step: str, unit: int, *, scratch: Path
    ) -> UnitResult: ...


def run_in_process(module: str, request: UnitRequest, on_cpu: Callable[[int], None]) -> dict[str, Any]:
    """Do a unit in `python -m module`, which calls `answer_request`; return the result as JSON.

    `on_cpu` is called about twice a second with the milliseconds of CPU time used since the last call. An exception of
    it ends the process.

    Raises: UnitFailed; CannotWork when a package is missing.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as answers:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(writing)],
                stdin=subprocess.PIPE, stdout=2, pass_fds=(writing,), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writing)
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(strict_json.dumps(asdict(request)).encode() + b"\n")
                process.stdin.flush()
            answer = _wait(answers.fileno(), process.pid, on_cpu)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # after its answer the process has nothing left to do
            code = process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
    return _read(answer, code, request)


def _wait(answers: int, pid: int, on_cpu: Callable[[int], None]) -> bytes:
    """Return the line of the answer, incomplete if the process ended before."""
    answer, used = b"", 0
    while not answer.endswith(b"\n"):
        if not select.select([answers], [], [], LOOK_SECONDS)[0]:
            now = _cpu_milliseconds(pid)
            on_cpu(now - used)
            used = now
            continue
        if not (some := os.read(answers, 1 << 16)):
            break
        answer += some
    return answer


def _cpu_milliseconds(pid: int) -> int:
    """Return the CPU time of a process with its threads; where /proc is missing, a number that grows."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return int(1000 * resource.getrusage(resource.RUSAGE_SELF).ru_utime)
    return int(1000 * sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))  # proc(5): utime, stime, cutime, cstime


def _read(answer: bytes, code: int, request: UnitRequest) -> dict[str, Any]:
    what = f"unit {request.unit} of step {request.step}"
    if not answer.endswith(b"\n"):
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise UnitFailed(
            f"the process of {what} {ended}: if the kernel's log says that memory ran out, give the worker more; "
            "otherwise see the lines above"
        )
    match json.loads(answer):
        case {"result": dict() as result}:
            return result
        case {"missing": missing}:
            extra = "models" if missing in ("torch", "torchvision", "timm", "open_clip") else "index"
            raise CannotWork(f"{missing} is not installed: install Shoal with its extra [{extra}]")
        case {"error": error}:
            raise UnitFailed(f"{what}: {error}")
    raise UnitFailed(f"the process of {what} answered {answer[:100]!r}: its version differs from the worker's")


def answer_request(plan_steps: PlanSteps, run_unit: RunUnit) -> None:
    """Run in the process: read the request, do the unit, write the answer."""
    answers = int(sys.argv[1])
    os.set_inheritable(answers, False)
    request = UnitRequest(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_worker, daemon=True).start()
    answer = _answer(request, plan_steps, run_unit)
    with suppress(BrokenPipeError), os.fdopen(answers, "wb") as pipe:
        pipe.write(strict_json.dumps(answer).encode() + b"\n")


def _end_with_worker() -> None:
    """Wait until the worker is gone; then kill the group, so that no process works without a lease."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGKILL)


def _answer(request: UnitRequest, plan_steps: PlanSteps, run_unit: RunUnit) -> dict[str, Any]:
    if request.max_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (request.max_bytes, request.max_bytes))
    try:
        store = Store.open(request.store)
        require_live(open_release(store, request.release), request.version)
        if request.step == next(name for name, units in request.plan if units):
            _check_plan(request, plan_to_json(plan_steps(store, request.release, request.options)))
        result = run_unit(
            store, request.release, request.options, request.step, request.unit, scratch=Path(request.scratch)
        )
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    except MemoryError:
        limit = "" if request.max_bytes is None else f" of {request.max_bytes / 2**30:.1f} GiB (--memory)"
        return {"error": f"the memory{limit} is not enough: give a worker more, or run fewer on this machine"}
    except (DatasetError, UnitFailed) as error:
        return {"error": " ".join(str(_cause(request, error)).split())}
    return {"result": asdict(result)}


def _cause(request: UnitRequest, error: Exception) -> Exception:
    """Return why a unit failed: a takedown meanwhile, which deletes a build's working files, or its own error."""
    try:
        require_live(open_release(Store.open(request.store, writable=False), request.release), request.version)
    except ReleaseError as removed:
        return removed
    except DatasetError:
        pass  # the store fails, and the error says so
    return error


def _check_plan(request: UnitRequest, computed: list[list[Any]]) -> None:
    """Raise UnitFailed if the release no longer gives the plan with which the build was begun."""
    if computed != request.plan:
        raise UnitFailed(
            f"the release {request.release} now makes the plan {computed}, and the build was begun with "
            f"{request.plan}: begin it again with --restart"
        )
