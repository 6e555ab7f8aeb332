"""Results of the check: one line of JSON for each number, written at once, and a table of all."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Result:
    """A measured number. `predicted` was computed from operations and bytes before it was measured."""

    step: str
    what: str
    measured: float | None
    unit: str
    predicted: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What a step is given: `quick` asks for small sizes, `folder` is for files that later steps may use."""

    step: str
    quick: bool
    folder: Path
    results: Path

    def record(
        self, what: str, measured: float | None, unit: str, predicted: float | None = None, note: str = ""
    ) -> None:
        """Write a result."""
        result = Result(self.step, what, measured, unit, predicted, note)
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
        print(line(result), flush=True)

    def expect(self, what: str, holds: bool, note: str = "") -> None:
        """Write whether something that has to hold does: 1 or 0, predicted 1."""
        self.record(what, float(holds), "holds", 1.0, note)


def read_results(path: Path) -> list[Result]:
    """Read what was recorded so far."""
    if not path.exists():
        return []
    return [Result(**json.loads(one)) for one in path.read_text("utf-8").splitlines()]


def line(result: Result) -> str:
    """Return a result as a line of the table."""
    measured, predicted = short(result.measured), short(result.predicted)
    ratio = f"{result.measured / result.predicted:.2f}" if result.measured is not None and result.predicted else ""
    return f"{result.what:46.46} {predicted:>9} {measured:>9} {ratio:>5} {result.unit:10.10} {result.note}"


def short(number: float | None) -> str:
    """Return a number in at most nine characters."""
    if number is None:
        return "-"
    return f"{number:,.0f}" if abs(number) >= 1_000 else f"{number:.4g}"


def seconds_on_gpu(work: Callable[[], Any], times: int = 5) -> float:
    """Return the median seconds of a call, measured with events after two calls to warm up."""
    for _ in range(2):
        work()
    taken = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(end) / 1_000)
    return float(sorted(taken)[times // 2])


def seconds(work: Callable[[], Any], times: int = 1) -> float:
    """Return the median seconds of a call on the clock; the call waits for the device itself."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[times // 2]
