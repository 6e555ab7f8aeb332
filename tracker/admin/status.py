"""`tracker status`: the tables of a snapshot."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from tracker.accounts.fleet import is_in_trouble
from tracker.admin import fleet_table
from tracker.admin.listing import Beside, Column, Listing, short, span
from tracker.database.enums import SUBSETS

MAX_WORKERS = 40  # the most workers that are shown; a swarm may have thousands
MOST_OUTCOMES = 100  # more than there are outcomes
OUTCOMES_ON_A_SCREEN = 3  # rows of outcomes, and of reasons of the filter, if the table must fit one screen
SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class StatusView:
    """Show a snapshot of the swarm: everything, or as much as fits one screen, with workers in trouble first."""

    seen: Mapping[str, Any]
    is_one_screen: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        alarms = [Text(f"! {sentence}", style="bold red") for sentence in self.seen["alarms"]]
        if not self.is_one_screen:
            yield from (*alarms, _queues(self.seen), "", _pool_and_links(self.seen, MOST_OUTCOMES))
            yield from _builds(self.seen["builds"])
            yield from _workers(self.seen, MAX_WORKERS)
            yield from _errors(self.seen["errors"])
            return
        left = console.size.height - 1  # the cursor's own line
        parts = (
            *alarms,
            _queues(self.seen, only_used=True),
            _pool_and_links(self.seen, OUTCOMES_ON_A_SCREEN),
            *_builds(self.seen["builds"]),
        )
        for part in parts:
            lines = console.render_lines(part, options, pad=False)[:left]
            left -= len(lines)
            yield _Lines(lines)
        lines = [line for part in _workers(self.seen, max(1, left - 3)) for line in console.render_lines(part, options)]
        yield _Lines(lines[:left])


@dataclass(frozen=True, slots=True)
class _Lines:
    """Wraps lines that are already rendered."""

    lines: Sequence[Sequence[Segment]]

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> Iterator[Segment]:
        for line in self.lines:
            yield from line
            yield Segment.line()


def sparkline(numbers: Sequence[float]) -> str:
    """Return a bar chart with one character per number; the full block stands for the largest."""
    most = max(numbers, default=0)
    if most <= 0:
        return SPARKS[0] * len(numbers)
    return "".join(SPARKS[round((len(SPARKS) - 1) * n / most)] for n in numbers)


def _queues(seen: Mapping[str, Any], *, only_used: bool = False) -> Listing:
    """Return the table of queues; with `only_used`, leave out queues that have neither jobs nor workers."""
    numbers = ("ready", "leased", "expired", "dead", "done", "oldest", "alive", "in/s", "out/s")
    columns = [Column("queue"), *(Column(heading, right=True) for heading in numbers), Column("state")]
    table = Listing([*columns, Column("rows in, 30 min", optional=True)])
    for name, row in seen["queues"].items():
        if only_used and not (seen["alive"][name] or any(row[key] for key in ("ready", "leased", "dead", "done"))):
            continue
        rate = seen["rates"][name]
        oldest = "" if row["oldest_ready_seconds"] is None else span(max(row["oldest_ready_seconds"], 0))
        state, reason = _state(row, [pile for pile in seen["balance"]["piles"] if pile["queue"] == name])
        table.add(
            name, *(short(row[key]) for key in numbers[:5]), oldest, short(seen["alive"][name]),
            short(rate["rows_in_per_second"]), short(rate["rows_out_per_second"]), state,
            sparkline(seen["minutes"][name]["rows_in"]), note=reason,
        )  # fmt: skip
    return table


def _pool_and_links(seen: Mapping[str, Any], most_outcomes: int) -> RenderableType:
    """Return the table of the pool, next to the table of outcomes."""
    pool = Listing([Column("pool"), *(Column(heading, right=True) for heading in ("waiting", "target", "share"))])
    rows = [(subset, seen["pool_by_subset"][subset], seen["targets"][subset]) for subset in SUBSETS]
    for name, n, target in (*rows, ("all", seen["pool"], seen["pool_target"])):
        pool.add(name, f"{n:,}", short(target), f"{n / target:.0%}" if target else "")
    pool.add("again", f"{seen['again']:,}", "", "")
    pool.add("leased", f"{seen['leased']:,}", "", "")
    links = Listing([Column("candidates", shrinks=True), Column("", right=True)])
    links.add("in", f"{seen['in']:,}")
    _add_most(links, "finished", seen["finished"], most_outcomes)
    if seen["links"] and (whole := sum(seen["links"].values())):
        for state, n in seen["links"].items():
            links.add(f"  {state.replace('_', ' ')}", f"{n / whole:.1%}")
    _add_most(links, "filter", seen["filtered"], most_outcomes)
    return Beside(Group(pool, Text(f"runs dry: {seen['balance']['runs_dry']}")), links)


def _add_most(table: Listing, place: str, counts: Mapping[str, int], most: int) -> None:
    """Add a row for each of the largest counts, and one row for the sum of the others."""
    if not counts:
        return
    largest = sorted(counts.items(), key=lambda item: -item[1])
    table.add(place, f"{sum(counts.values()):,}")
    for label, n in largest[:most]:
        table.add(f"  {label}", f"{n:,}")
    if others := largest[most:]:
        table.add(f"  {len(others)} others", f"{sum(n for _, n in others):,}")


def _builds(builds: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    if not builds:
        return
    numbers = ("done", "of", "failed")
    columns = [Column("build"), Column("release", shrinks=True), Column("target", shrinks=True), Column("step")]
    table = Listing([*columns, *(Column(heading, right=True) for heading in numbers), Column("state")])
    for row in builds:
        step = f"{row['step']} ({row['number']}/{row['steps']})" if row["step"] else ""
        units = (row["units"] - row["units_left"], row["units"], row["failed"]) if row["step"] else ("", "", "")
        table.add(row["queue"], row["run"].removeprefix("releases/"), row["target"], step, *units, _state_of_build(row))
    yield ""
    yield table


def _state_of_build(build: Mapping[str, Any]) -> str:
    if build["finished_at"]:
        return "finished"
    if build["abandoned_at"]:
        return "abandoned"
    return "stopped" if build["failed"] else "in progress"


def _workers(seen: Mapping[str, Any], most: int) -> Iterator[RenderableType]:
    workers = sorted(seen["workers"], key=lambda row: not is_in_trouble(row))
    if not workers:
        return
    yield ""
    yield fleet_table.render(workers[:most])
    if len(workers) > most:
        yield Text(f"and {len(workers) - most:,} more: see tracker workers")


def _errors(errors: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    if not errors:
        return
    table = Listing([Column("job", right=True), Column("queue"), Column("state"), Column("last error")])
    for row in errors:
        table.add(row["job_id"], row["queue"], row["state"], "", note=row["error"])
    yield ""
    yield table


def _state(queue: Mapping[str, Any], piles: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return a queue's state as one word, and the reason if it is held."""
    if queue["paused"]:
        return "paused", ""
    if queue["held"]:
        above = [f"{pile['amount']:,} {pile['what']}" for pile in piles if pile["amount"] > pile["resume"]]
        return "held", f"held: {' and '.join(above)}"
    if queue["max_leased"] is not None and queue["leased"] >= queue["max_leased"]:
        return "full", f"at its limit of {queue['max_leased']:,}"
    return "open", ""
