"""The line at the bottom of the terminal that shows a worker's current work, if stderr is a terminal.

Log lines scroll by above it: the same console prints them, and redraws the line below.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dataset import strict_json
from workers.runtime.context import WorkContext
from workers.runtime.instrumented_session import InstrumentedSession

LOOKS_A_SECOND = 4
RATE_SECONDS = 10.0
# Chosen so that the cells of a worker fit into 80 columns.
BAR_WIDTH = 10
PROGRESS_VARIABLE = "SHOAL_PROGRESS_FD"
"""The descriptor of a pipe through which this worker reports its status to a parent process."""


@dataclass(frozen=True, slots=True)
class Status:
    """A worker's state at one moment; `done`, `at` and `size` are in the unit of its stage."""

    kind: str
    unit: str
    jobs: Sequence[int]
    done: int
    at: int
    size: int
    """Total size of all jobs that the worker holds; 0 means unknown."""
    rate: float
    completed: int
    failed: int
    stopping: bool
    starting: bool = False
    ended: bool = False

    @classmethod
    def of_starting(cls, kind: str) -> Self:
        """Return the status of a worker that has not reported yet."""
        return cls(kind, "", (), 0, 0, 0, 0.0, 0, 0, stopping=False, starting=True)

    def cells(self) -> list[RenderableType]:
        """Return the table cells for this worker."""
        cells: list[RenderableType] = [Text(self.kind, style="bold"), self._state()]
        if self.starting:
            return cells
        if self.jobs and self.size:
            cells += [ProgressBar(self.size, self.at, width=BAR_WIDTH), Text(f"{self.at:,}/{self.size:,}")]
        else:
            cells += [Text(""), Text(f"{self.done:,}")]
        cells.append(Text(f"{self.rate:,.0f} {self.unit}/s"))
        cells.append(Text(f"{self.completed:,} done", style="green" if self.completed else ""))
        cells.append(Text(f"{self.failed:,} failed", style="red" if self.failed else ""))
        return cells

    def _state(self) -> Text:
        if self.ended:
            return Text("ended")
        if self.starting:
            return Text("starting")
        if self.stopping:
            return Text("stopping", style="yellow")
        if not self.jobs:
            return Text("waiting")
        return Text(f"job {self.jobs[0]}" if len(self.jobs) == 1 else f"{len(self.jobs)} jobs")


def grid(statuses: Sequence[Status]) -> Table:
    """Lay out one line per worker; a narrow terminal cuts cells instead of wrapping them."""
    table = Table.grid(padding=(0, 1))
    rows = [status.cells() for status in statuses]
    for _ in max(rows, key=len, default=[]):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*row)
    return table


class Bar:
    """The worker's line; computed at each refresh."""

    def __init__(self, context: WorkContext, session: InstrumentedSession, unit: str) -> None:
        self._context = context
        self._session = session
        self._unit = unit
        self._started = time.monotonic()
        self._sizes: Mapping[int, int] = {}
        self._size = 0
        self._before = 0  # the progress when the held jobs were first seen
        self._seen: deque[tuple[float, int]] = deque([(self._started, 0)])

    def __rich__(self) -> RenderableType:
        return grid([self.status()])

    def status(self) -> Status:
        now, done, in_flight = time.monotonic(), self._context.progress, self._session.in_flight
        sizes = in_flight.sizes
        # all jobs are new; if there are several, some may end earlier than others
        if not self._sizes.keys() & sizes.keys():
            self._before, self._size = done, 0
        self._sizes, self._size = sizes, max(self._size, sum(sizes.values()))
        return Status(
            kind=self._session.kind,
            unit=self._unit,
            jobs=list(sizes),
            done=done,
            at=min(done - self._before, self._size),
            size=self._size,
            rate=self._rate(now, done),
            completed=in_flight.completed,
            failed=in_flight.failed,
            stopping=self._context.stopping.is_set(),
        )

    def _rate(self, now: float, done: int) -> float:
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_SECONDS:
            self._seen.popleft()
        first, before = self._seen[0]
        return (done - before) / (now - first) if now > first else 0.0


class LinesAbove(logging.Handler):
    """Prints log lines above the bar, unwrapped and unchanged."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        print_line(self._console, self.format(record))


def print_line(console: Console, line: str) -> None:
    """Print a log line unwrapped and unchanged."""
    console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def shown(
    context: WorkContext, session: InstrumentedSession, unit: str, console: Console | None = None
) -> Iterator[None]:
    """Show the bar during the block if stderr is a terminal; under `worker all` report to the parent instead."""
    if descriptor := os.environ.get(PROGRESS_VARIABLE):
        with _reported(Bar(context, session, unit), int(descriptor)):
            yield
        return
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield
        return
    root = logging.getLogger()
    handlers, above = root.handlers[:], LinesAbove(console)
    above.setFormatter(handlers[0].formatter if handlers else None)
    root.handlers = [above]
    try:
        with Live(
            Bar(context, session, unit),
            console=console,
            refresh_per_second=LOOKS_A_SECOND,
            transient=True,
            redirect_stdout=False,
        ):
            yield
    finally:
        root.handlers = handlers


@contextmanager
def _reported(bar: Bar, descriptor: int) -> Iterator[None]:
    """Write the worker's status to a pipe during the block, one JSON object per line."""
    ended = threading.Event()

    def report() -> None:
        with os.fdopen(descriptor, "w", encoding="utf-8") as pipe, suppress(BrokenPipeError):
            while True:
                last = ended.wait(1 / LOOKS_A_SECOND)
                pipe.write(strict_json.dumps(asdict(bar.status())) + "\n")
                pipe.flush()
                if last:
                    return

    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
