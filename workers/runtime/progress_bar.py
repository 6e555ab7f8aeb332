"""A line at the foot of a terminal that shows what a worker does; where stderr is no terminal there is none.

Log lines scroll by above it: they are printed by the same console, which moves the line out of their way.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workers.runtime.context import Desk
from workers.runtime.instrumented_session import WatchedSession

LOOKS_A_SECOND = 4
RATE_SECONDS = 10.0
BAR_WIDTH = 30
# What a stage counts as its progress.
UNITS = {"extract": "images", "ingest": "rows", "download": "links", "filter": "samples", "embed": "samples"}


class Bar:
    """What the line shows, worked out anew at each look."""

    def __init__(self, desk: Desk, session: WatchedSession) -> None:
        self._desk = desk
        self._session = session
        self._started = time.monotonic()
        self._held: Mapping[int, int] = {}
        self._size = 0
        self._before = 0  # progress when the jobs at hand were first seen
        self._seen: deque[tuple[float, int]] = deque([(self._started, 0)])

    def __rich__(self) -> RenderableType:
        now, done, watched = time.monotonic(), self._desk.progress, self._session.watched
        held = watched.held
        if not self._held.keys() & held.keys():  # others than before; of several, some may end sooner
            self._before, self._size = done, 0
        self._held, self._size = held, max(self._size, sum(held.values()))
        said = Table.grid(padding=(0, 2))
        cells: list[RenderableType] = [Text(self._session.kind, style="bold"), Text(_named(list(held)))]
        if held and self._size:
            at = min(done - self._before, self._size)
            cells += [ProgressBar(self._size, at, width=BAR_WIDTH), Text(f"{at:,}/{self._size:,}")]
        else:
            cells.append(Text(f"{done:,}"))
        unit = UNITS.get(self._session.kind, "steps")
        cells.append(Text(f"{self._rate(now, done):,.0f} {unit}/s"))
        cells.append(Text(f"jobs done {watched.completed:,}", style="green" if watched.completed else ""))
        cells.append(Text(f"failed {watched.failed:,}", style="red" if watched.failed else ""))
        if self._desk.stopping.is_set():
            cells.append(Text("stopping", style="yellow"))
        for _ in cells:
            said.add_column(no_wrap=True, overflow="ellipsis")  # one line, on however narrow a terminal
        said.add_row(*cells)
        return said

    def _rate(self, now: float, done: int) -> float:
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_SECONDS:
            self._seen.popleft()
        first, before = self._seen[0]
        return (done - before) / (now - first) if now > first else 0.0


class _Above(logging.Handler):
    """Prints log lines above the bar, whole and as they are."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def shown(desk: Desk, session: WatchedSession, console: Console | None = None) -> Iterator[None]:
    """Show the bar while the block runs, if stderr is a terminal."""
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield
        return
    root = logging.getLogger()
    handlers, above = root.handlers[:], _Above(console)
    above.setFormatter(handlers[0].formatter if handlers else None)
    root.handlers = [above]
    try:
        with Live(
            Bar(desk, session),
            console=console,
            refresh_per_second=LOOKS_A_SECOND,
            transient=True,
            redirect_stdout=False,
        ):
            yield
    finally:
        root.handlers = handlers


def _named(jobs: list[int]) -> str:
    if not jobs:
        return "waiting for work"
    return f"job {jobs[0]}" if len(jobs) == 1 else f"{len(jobs)} jobs"
