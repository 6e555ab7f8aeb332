"""`tracker status`: the swarm at a glance, as data and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tracker.accounts.balance import balance
from tracker.accounts.ledger import Accounts, accounts, total
from tracker.admin import fleet
from tracker.database.database import Connection, query, translated
from tracker.database.enums import QUEUES, SUBSETS
from tracker.watch import pace
from tracker.watch.alarms import alarms
from tracker.watch.server import server

MAX_WORKERS = 40  # shown; the swarm may have thousands
SPARKS = "▁▂▃▄▅▆▇█"


def status(connection: Connection) -> dict[str, Any]:
    """Queues, pool, outcomes and workers of one moment; keys as `tracker status --json` prints them."""
    with translated():
        queues = {row.pop("queue"): row for row in connection.execute(query("queues")).fetchall()}
        expired = {row["queue"]: row["n"] for row in connection.execute(query("expired"))}
        minutes = pace.by_minute(connection.execute(query("minutes")).fetchall())
        filtered = {row["label"]: row["n"] for row in connection.execute(query("filtered"))}
        errors = connection.execute(query("errors")).fetchall()
        settings = {row["name"]: row["value"] for row in connection.execute("SELECT name, value FROM tracker.setting")}
        runs = connection.execute("SELECT name, recipe, created_at::text FROM tracker.run ORDER BY run_id").fetchall()
        bloom = connection.execute(query("bloom")).fetchone()
    workers = fleet.workers(connection)
    known = accounts(connection)
    balanced = balance(connection)
    whole = total(known)
    rates = pace.rates(minutes)
    came_in = {subset: _sum(known, subset, "came_in") for subset in SUBSETS}
    seen = {
        "queues": {name: row | {"expired": expired.get(name, 0)} for name, row in queues.items()},
        "in": whole.came_in,
        "pool": whole.pool,
        "pool_by_subset": {subset: _sum(known, subset, "pool") for subset in SUBSETS},
        "pool_target": int(settings["pool_resume"]),
        "targets": pace.targets(settings, came_in),
        "pool_low": balanced.is_low_in_rows,
        "balance": balanced.to_json(),
        "hours_left": balanced.hours_left,
        "again": whole.again,
        "leased": whole.leased,
        "finished": dict(sorted(whole.finished.items())),
        "filtered": filtered,
        "rates": rates,
        "minutes": minutes,
        "alive": {kind: sum(row["kind"] == kind and row["alive"] for row in workers) for kind in QUEUES},
        "workers": workers,
        "errors": errors,
        "runs": runs,
        "settings": settings,
        "bloom": bloom,
        "server": server(connection),
    }
    return seen | {"alarms": alarms(seen)}


def render(seen: Mapping[str, Any]) -> RenderableType:
    """The tables that a person sees."""
    parts: list[RenderableType] = [Text(f"! {sentence}", style="bold red") for sentence in seen["alarms"]]
    parts += [_queues(seen), _pool(seen), _links(seen)]
    if seen["workers"]:
        parts += [Text("Workers", style="italic"), fleet.render(seen["workers"][:MAX_WORKERS])]
    if len(seen["workers"]) > MAX_WORKERS:
        parts.append(Text(f"and {len(seen['workers']) - MAX_WORKERS:,} more: see tracker workers"))
    if seen["errors"]:
        errors = Table("job", "queue", "state", "last error", title="Errors", title_justify="left")
        for row in seen["errors"]:
            errors.add_row(str(row["job_id"]), row["queue"], row["state"], Text(row["error"]))
        parts.append(errors)
    return Group(*parts)


def sparkline(numbers: Sequence[float]) -> str:
    """One character a number, from the lowest mark for nothing to the full block for the most."""
    most = max(numbers, default=0)
    if most <= 0:
        return SPARKS[0] * len(numbers)
    return "".join(SPARKS[round((len(SPARKS) - 1) * n / most)] for n in numbers)


def _queues(seen: Mapping[str, Any]) -> Table:
    table = Table("queue", title="Queues", title_justify="left")
    for heading in ("ready", "leased", "expired", "dead", "done", "oldest", "alive", "in/s", "out/s"):
        table.add_column(heading, justify="right")
    table.add_column("rows in, 30 min")
    table.add_column("state", justify="right")
    for name, row in seen["queues"].items():
        rate = seen["rates"][name]
        piles = [pile for pile in seen["balance"]["piles"] if pile["queue"] == name]
        oldest = "" if row["oldest_ready_seconds"] is None else f"{max(row['oldest_ready_seconds'], 0):,.0f} s"
        cells = [f"{row[key]:,}" for key in ("ready", "leased", "expired", "dead", "done")]
        cells += [oldest, f"{seen['alive'][name]:,}"]
        cells += [f"{rate['rows_in_per_second']:,.0f}", f"{rate['rows_out_per_second']:,.0f}"]
        table.add_row(name, *cells, sparkline(seen["minutes"][name]["rows_in"]), _state(row, piles))
    return table


def _pool(seen: Mapping[str, Any]) -> Table:
    table = Table("pool", title="Pool", title_justify="left")
    for heading in ("waiting", "target", "share"):
        table.add_column(heading, justify="right")
    rows = [(subset, seen["pool_by_subset"][subset], seen["targets"][subset]) for subset in SUBSETS]
    for name, n, target in (*rows, ("all", seen["pool"], seen["pool_target"])):
        table.add_row(name, f"{n:,}", f"{target:,}", f"{n / target:.0%}" if target else "")
    table.add_row("runs dry", seen["balance"]["runs_dry"], "", "")
    return table


def _links(seen: Mapping[str, Any]) -> Table:
    table = Table("links", title="Candidates", title_justify="left")
    table.add_column("", justify="right")
    for place in ("in", "pool", "again", "leased"):
        table.add_row(place, f"{seen[place]:,}")
    for outcome, n in sorted(seen["finished"].items(), key=lambda item: -item[1]):
        table.add_row(f"finished: {outcome}", f"{n:,}")
    for reason, n in sorted(seen["filtered"].items(), key=lambda item: -item[1]):
        table.add_row(Text(f"filter: {reason}"), f"{n:,}")
    return table


def _state(queue: Mapping[str, Any], piles: Sequence[Mapping[str, Any]]) -> str:
    if queue["paused"]:
        return "paused"
    if queue["held"]:
        above = [f"{pile['amount']:,} {pile['what']}" for pile in piles if pile["amount"] > pile["resume"]]
        return f"held: {' and '.join(above)}"
    if queue["max_leased"] is not None and queue["leased"] >= queue["max_leased"]:
        return "at its limit"
    return "open"


def _sum(known: Accounts, subset: str, place: str) -> int:
    return sum(getattr(of, place) for (_, its), of in known.items() if its == subset)
