"""The output of the demo while it works and at its end; all of it comes from `tracker status --json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dataset.report.report import StageRow
from tests.demo.checks import Check

STAGES = ("extract", "ingest", "download", "filter")
BAR_CELLS = 24


def stage_rows(status: Mapping[str, Any]) -> list[StageRow]:
    """Read what each stage has done."""
    queues = status["queues"]
    return [
        StageRow(
            stage,
            int(queues[stage]["done"]),
            int(queues[stage]["rows_in"]),
            int(queues[stage]["rows_out"]),
            float(queues[stage]["seconds"]),
        )
        for stage in STAGES
    ]


def one_line(status: Mapping[str, Any], seconds: float) -> str:
    """Return the swarm's progress as one line, for output that is not a terminal."""
    jobs = " ".join(f"{stage} {_jobs(status['queues'][stage])}" for stage in STAGES)
    return f"{seconds:4.0f} s  {jobs}  pool {status['pool']:,}  again {status['again']:,}  {_ends(status)}"


def live_view(status: Mapping[str, Any], seconds: float) -> RenderableType:
    """Draw where the swarm stands."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("stage", "", "jobs", "in hand", "rows in", "rows out"):
        table.add_column(heading, justify="left" if heading in ("stage", "") else "right", no_wrap=True)
    for stage in STAGES:
        row = status["queues"][stage]
        bar = _bar(int(row["done"]), int(row["done"] + row["ready"] + row["leased"]))
        numbers = (_jobs(row), f"{row['leased']:,}", f"{row['rows_in']:,}", f"{row['rows_out']:,}")
        table.add_row(stage, bar, *numbers)
    waiting = f"{seconds:.0f} s   pool {status['pool']:,}   again {status['again']:,}   leased {status['leased']:,}"
    return Group(table, Text(f"{waiting}   {_ends(status)}", style="dim"))


def closing_table(rows: Sequence[StageRow]) -> Table:
    """Draw what each stage did; a rate is rows in for a second of one worker's work."""
    table = Table(title="The swarm's work", title_justify="left")
    for heading in ("stage", "jobs", "rows in", "rows out", "busy seconds", "rate, rows in/s"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for row in rows:
        rate = f"{row.rows_in / row.seconds:,.0f}" if row.seconds > 0 else "–"
        table.add_row(row.stage, f"{row.jobs:,}", f"{row.rows_in:,}", f"{row.rows_out:,}", f"{row.seconds:,.1f}", rate)
    return table


def check_table(checks: Sequence[Check]) -> Table:
    """Draw each check with its answer."""
    table = Table(title="Compared with what was planted", title_justify="left")
    for heading in ("", "check", "found"):
        table.add_column(heading)
    for check in checks:
        table.add_row(Text("yes", "green") if check.holds else Text("NO", "bold red"), check.question, Text(check.said))
    return table


def _jobs(row: Mapping[str, Any]) -> str:
    dead = f" ({row['dead']} dead)" if row["dead"] else ""
    return f"{row['done']}/{row['done'] + row['ready'] + row['leased']}{dead}"


def _ends(status: Mapping[str, Any]) -> str:
    fetched, finished = status["finished"].get("success", 0), sum(status["finished"].values())
    return f"fetched {fetched:,} of {finished:,}   kept {status['filtered'].get('kept', 0):,}"


def _bar(done: int, whole: int) -> Text:
    filled = round(BAR_CELLS * done / whole) if whole else 0
    return Text.assemble(("━" * filled, "green"), ("━" * (BAR_CELLS - filled), "grey37"))
