"""Tables that fit 80 columns, and show more columns on a wider terminal.

Invariant: no heading and no number is ever cut. If the terminal is too narrow, the optional columns are left out, the
last one first; then the gap between columns shrinks; then the columns with `shrinks` are cut.

Rejected: Rich's own layout, which cuts every column alike ("ready" became "rea…").
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

GAPS = (2, 1)  # cells between columns; the first value that fits is used
NOTE_INDENT = "  "
BESIDE_GAP = 3
LEAST_CELLS = 4  # the minimum width of a column that shrinks


@dataclass(frozen=True, slots=True)
class Column:
    heading: str
    right: bool = False
    optional: bool = False
    """Left out if the terminal is too narrow."""
    shrinks: bool = False
    """Cut if the terminal is too narrow."""


@dataclass(frozen=True, slots=True)
class Row:
    cells: Sequence[str]
    note: str = ""
    """A sentence below the row, wrapped at the full width."""
    style: str = ""


@dataclass(slots=True)
class Listing:
    """Rows under headings, each on one line."""

    columns: Sequence[Column]
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: object, note: str = "", style: str = "") -> None:
        self.rows.append(Row([str(cell) for cell in cells], note, style))

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        shown, widths, gap = self._lay_out(options.max_width)
        width = sum(widths[i] for i in shown) + gap * (len(shown) - 1)
        return Measurement(width, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        shown, widths, gap = self._lay_out(options.max_width)
        yield self._line([column.heading for column in self.columns], shown, widths, gap, "bold")
        for row in self.rows:
            yield self._line(row.cells, shown, widths, gap, row.style)
            if row.note:
                lines = Text(row.note, row.style).wrap(console, options.max_width - len(NOTE_INDENT))
                yield from (Text.assemble(NOTE_INDENT, line) for line in lines)

    def _lay_out(self, room: int) -> tuple[list[int], list[int], int]:
        """Return which columns are shown, the width of every column, and the gap."""
        cells = [[column.heading for column in self.columns], *(row.cells for row in self.rows)]
        widths = [max(cell_len(line[i]) for line in cells) for i in range(len(self.columns))]
        shown = list(range(len(self.columns)))
        while not _fits(shown, widths, GAPS[0], room) and (optional := [i for i in shown if self.columns[i].optional]):
            shown.remove(optional[-1])
        gap = next((gap for gap in GAPS if _fits(shown, widths, gap, room)), GAPS[-1])
        for i in reversed(shown):
            if self.columns[i].shrinks:
                too_much = max(0, sum(widths[i] for i in shown) + gap * (len(shown) - 1) - room)
                widths[i] = max(min(widths[i], LEAST_CELLS), widths[i] - too_much)
        return shown, widths, gap

    def _line(self, cells: Sequence[str], shown: Sequence[int], widths: Sequence[int], gap: int, style: str) -> Text:
        said = []
        for i in shown:
            cell = cells[i]
            if cell_len(cell) > widths[i]:
                cell = set_cell_size(cell, widths[i] - 1) + "…"
            space = " " * (widths[i] - cell_len(cell))
            said.append(space + cell if self.columns[i].right else cell + space)
        return Text((" " * gap).join(said).rstrip(), style, no_wrap=True, overflow="ignore")


def text_table(*headings: str) -> Table:
    """Return a table for sentences and paths: cells wrap and are never cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


@dataclass(frozen=True, slots=True)
class Beside:
    """Two renderables side by side, or below each other if the terminal is too narrow."""

    left: RenderableType
    right: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        widths = [console.measure(part, options=options).maximum for part in (self.left, self.right)]
        if sum(widths) + BESIDE_GAP > options.max_width:
            yield self.left
            yield self.right
            return
        both = Table.grid(padding=(0, BESIDE_GAP, 0, 0))
        both.add_row(self.left, self.right)
        yield both


def short(number: float) -> str:
    """Return a number in at most six characters: 99,999, then 123k, 1.23M, 12.3G."""
    if number < 99_999.5:
        return f"{number:,.0f}"
    for unit in "kMG":
        number /= 1000
        if number < 999.5 or unit == "G":
            return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}{unit}"
    raise AssertionError


def span(seconds: float) -> str:
    """Return a time in at most six characters: 59 s, 59 min, 47 h, 99 d."""
    for size, unit, most in ((1, "s", 100), (60, "min", 100), (3600, "h", 48)):
        if seconds / size < most - 0.5:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:,.0f} d"


def _fits(shown: Sequence[int], widths: Sequence[int], gap: int, room: int) -> bool:
    return sum(widths[i] for i in shown) + gap * (len(shown) - 1) <= room
