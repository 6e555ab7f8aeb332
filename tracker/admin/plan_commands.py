"""The commands that simulate a crawl and its balance: plan and rebalance."""

import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table

from tracker.admin.console import Json, app, open_tracker, show
from tracker.admin.listing import Column, Listing, span, text_table
from tracker.errors import TrackerError
from tracker.planning import rebalance as balancing
from tracker.planning.measured_rates import with_measured
from tracker.planning.plan import PRESETS, STAGES, Number, Plan, make_plan, with_given


@app.command()
def plan(
    given: Annotated[
        list[str] | None,
        typer.Option("--set", help="Your own number, for example links=5e9 or workers.download=300. Repeatable."),
    ] = None,
    preset: Annotated[str, typer.Option(help=f"Where the other numbers come from: {', '.join(PRESETS)}.")] = "crawl",
    measured: Annotated[bool, typer.Option(help="Use the rates that this swarm has measured.")] = True,
    as_json: Json = False,
) -> None:
    """Simulate a crawl: days, bottleneck, sizes and cost."""
    if preset not in PRESETS:
        raise typer.BadParameter(f"'{preset}' is not a preset: use one of {', '.join(PRESETS)}")
    assumptions = PRESETS[preset]
    if measured and preset == "crawl":
        with open_tracker() as connection:
            assumptions = with_measured(connection, assumptions)
    made = make_plan(with_given(assumptions, _numbers(given or [])))
    show(asdict(made), as_json, lambda: _render_plan(made))


@app.command()
def rebalance(
    apply: Annotated[bool, typer.Option("--apply", help="Make the changes that the tracker can make itself.")] = False,
    as_json: Json = False,
) -> None:
    """Find the bottleneck, and propose changes that remove it."""
    with open_tracker() as connection:
        found = balancing.propose(connection)
        returned = balancing.apply(connection, found) if apply else None
    data = asdict(found) | {"applied": apply, "jobs_returned": returned}
    show(data, as_json, lambda: _render_proposal(found, returned))


def _numbers(given: list[str]) -> dict[str, float]:
    numbers = {}
    for one in given:
        matched = re.fullmatch(r"([a-z_.]+)=([0-9.eE+-]+)", one)
        try:
            numbers[matched[1]] = float(matched[2]) if matched else 0.0  # type: ignore[index]
        except (TypeError, ValueError):
            raise TrackerError(f"'{one}' is not NAME=NUMBER: write it like links=5e9") from None
    return numbers


def _render_plan(made: Plan) -> RenderableType:
    a = made.assumptions
    until = f"{made.days:,.1f} days" if made.finished else f"not finished after {made.days:,.0f} days"
    database = f"{made.database_cores:.2f} cores at {made.draws_per_second:.2f} draws/s"
    lost = f"at most {made.bloom_lost_links:,.0f} links lost"
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("time", f"{until}, held up by {made.bottleneck}"),
        ("pairs", f"{made.pairs:,.0f} of {a.links.value:,.0f} links"),
        ("pool at most", f"{made.pool_rows:,.0f} candidates"),
        (
            "database",
            f"{made.database_bytes / 1e9:,.0f} GB; {database}",
        ),
        (
            "Bloom filter",
            f"{made.bloom_bytes / 1e9:,.1f} GB at {a.bloom_rate.value:.2%}: {lost}",
        ),
        ("store", f"{made.store_peak_bytes / 1e12:,.1f} TB at most, {made.store_end_bytes / 1e12:,.1f} TB at the end"),
        ("cost", f"{made.cost:,.0f} $"),
        ("publish", _release_line(made)),
        ("statistics", f"{span(made.release.stats_seconds)} to count all rows; publish saves its own counts"),
        ("near-duplicates", _dedup_line(made)),
        ("index", _index_line(made)),
        ("tags", _tags_line(made)),
    ):
        facts.add_row(name, value)
    numbers = ("workers", "rows", "rows/s together", "busy", "days", "$")
    stages = Listing([Column("stage"), *(Column(heading, right=True) for heading in numbers)])
    for stage in STAGES:
        one = made.stages[stage]
        stages.add(
            stage,
            f"{one.workers:,.0f}",
            f"{one.rows:,.0f}",
            f"{one.rate:,.0f}",
            f"{one.busy:.0%}",
            f"{one.days:,.1f}",
            f"{one.cost:,.0f}",
        )
    return Group(facts, "", stages, "", _render_sources(made), *made.notes)


def _release_line(made: Plan) -> str:
    release = made.release
    disk = f"{release.release_bytes / 1e9:,.0f} GB and {release.work_bytes / 1e9:,.0f} GB of work"
    cores = f"{made.assumptions.publish_cores.value:,.0f} cores"
    return f"{span(release.publish_seconds)} on {cores}, {release.memory_bytes / 1e9:,.1f} GB of memory; {disk}"


def _dedup_line(made: Plan) -> str:
    release = made.release
    cores = f"{made.assumptions.publish_cores.value:,.0f} cores"
    memory = f"{release.dedup_memory_bytes / 1e9:,.1f} GB of memory"
    return f"{span(release.dedup_seconds)} on {cores}, {memory}; {release.dedup_work_bytes / 1e9:,.0f} GB of work"


def _index_line(made: Plan) -> str:
    release = made.release
    cores = f"{made.assumptions.publish_cores.value:,.0f} cores"
    memory = f"{release.index_memory_bytes / 1e9:,.1f} GB of memory"
    return f"{span(release.index_seconds)} on {cores}, {memory}; {release.index_bytes / 1e9:,.0f} GB"


def _tags_line(made: Plan) -> str:
    release = made.release
    cores = f"{made.assumptions.publish_cores.value:,.0f} cores"
    by_pictures = f"{span(release.tag_pictures_seconds)} by a classifier of pictures"
    return f"{span(release.tag_seconds)} on {cores} by a head of embeddings, {by_pictures}"


def _render_sources(made: Plan) -> Table:
    table = text_table("number", "value", "source")
    for name, value in asdict(made.assumptions).items():
        entries = {name: value} if "source" in value else {f"{name}.{stage}": one for stage, one in value.items()}
        for label, one in entries.items():
            number = Number(**one)
            table.add_row(label, f"{number.value:,.4g}", f"{number.source}{': ' + number.note if number.note else ''}")
    return table


def _render_proposal(found: balancing.Proposal, returned: int | None) -> RenderableType:
    numbers = ("alive", "rows/s each", "new links/s together", "enough")
    kinds = Listing([Column("workers"), *(Column(heading, right=True) for heading in numbers)])
    for kind in found.kinds:
        name = f"{kind.stage} (bottleneck)" if kind.stage == found.bottleneck else kind.stage
        kinds.add(name, str(kind.alive), f"{kind.rate:,.0f}", f"{kind.links_per_second:,.0f}", str(kind.enough))
    parts: list[RenderableType] = [kinds]
    if found.bottleneck is None:
        parts.append("no worker is alive: start one of each kind")
    if found.unmeasured:
        parts.append(f"not measured here yet, therefore assumed: {', '.join(found.unmeasured)}")
    parts += [f"{c.setting}: {c.before:g} → {c.after:g} ({c.why})" for c in found.changes]
    silent = len(found.silent)
    if returned is None:
        parts.append(f"silent workers whose leases would end: {silent}" if silent else "no worker is silent")
        if silent or found.changes:
            parts.append("tracker rebalance --apply makes these changes")
    else:
        parts.append(f"done; {returned} jobs of {silent} silent workers are ready again")
    return Group(*parts)
