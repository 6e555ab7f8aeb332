"""`tracker status`: the swarm at a glance, as data and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tracker.balance import balance
from tracker.database import Connection, query, translated
from tracker.ledger import accounts, total


def status(connection: Connection) -> dict[str, Any]:
    """Queues, pool, outcomes and workers of one moment; keys as `tracker status --json` prints them."""
    with translated():
        queues = {row.pop("queue"): row for row in connection.execute(query("queues")).fetchall()}
        workers = connection.execute(query("workers")).fetchall()
        filtered = {row["label"]: row["n"] for row in connection.execute(query("filtered"))}
        errors = connection.execute(query("errors")).fetchall()
        settings = {row["name"]: row["value"] for row in connection.execute("SELECT name, value FROM tracker.setting")}
        runs = connection.execute("SELECT name, recipe, created_at::text FROM tracker.run ORDER BY run_id").fetchall()
    known = accounts(connection)
    balanced = balance(connection)
    whole = total(known)
    return {
        "queues": queues,
        "in": whole.came_in,
        "pool": whole.pool,
        "pool_by_subset": _by_subset({key: of.pool for key, of in known.items()}),
        "pool_low": balanced.is_low_in_rows,
        "balance": balanced.to_json(),
        "again": whole.again,
        "leased": whole.leased,
        "finished": dict(sorted(whole.finished.items())),
        "filtered": filtered,
        "workers": workers,
        "errors": errors,
        "runs": runs,
        "settings": settings,
    }


def render(seen: Mapping[str, Any]) -> RenderableType:
    """The tables that a person sees."""
    queues = Table("queue", title="Queues", title_justify="left")
    for heading in ("ready", "leased", "done", "dead", "rows in", "rows out", "state"):
        queues.add_column(heading, justify="right")
    for name, row in seen["queues"].items():
        state = _state(row, [pile for pile in seen["balance"]["piles"] if pile["queue"] == name])
        cells = [row["ready"], row["leased"], row["done"], row["dead"], row["rows_in"], row["rows_out"]]
        queues.add_row(name, *(f"{n:,}" for n in cells), state)
    links = Table("links", title="Candidates", title_justify="left")
    links.add_column("", justify="right")
    for place in ("in", "pool", "again", "leased"):
        links.add_row(place, f"{seen[place]:,}")
    for outcome, n in sorted(seen["finished"].items(), key=lambda item: -item[1]):
        links.add_row(f"finished: {outcome}", f"{n:,}")
    for reason, n in sorted(seen["filtered"].items(), key=lambda item: -item[1]):
        links.add_row(Text(f"filter: {reason}"), f"{n:,}")
    workers = Table("worker", "kind", "host", "state", title="Workers", title_justify="left")
    for heading in ("pid", "leases", "seen"):
        workers.add_column(heading, justify="right")
    for row in seen["workers"]:
        state = row["state"] if row["alive"] else "silent"
        seconds = f"{row['seen_seconds_ago']:.0f} s ago"
        workers.add_row(
            row["worker"][:8], row["kind"], Text(row["host"]), state, str(row["pid"]), str(row["leases"]), seconds
        )
    links.add_row("pool runs dry", seen["balance"]["runs_dry"])
    alarm = seen["balance"]["alarm"]
    alarms: list[RenderableType] = [Text(alarm, style="bold red")] if alarm else []
    parts: list[RenderableType] = [*alarms, queues, links, workers]
    if seen["errors"]:
        errors = Table("job", "queue", "state", "last error", title="Errors", title_justify="left")
        for row in seen["errors"]:
            errors.add_row(str(row["job_id"]), row["queue"], row["state"], Text(row["error"]))
        parts.append(errors)
    return Group(*parts)


def _state(queue: Mapping[str, Any], piles: Sequence[Mapping[str, Any]]) -> str:
    if queue["paused"]:
        return "paused"
    if queue["held"]:
        above = [f"{pile['amount']:,} {pile['what']}" for pile in piles if pile["amount"] > pile["resume"]]
        return f"held: {' and '.join(above)}"
    if queue["max_leased"] is not None and queue["leased"] >= queue["max_leased"]:
        return "at its limit"
    return "open"


def _by_subset(pools: Mapping[tuple[str, str], int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, subset), n in pools.items():
        found[subset] = found.get(subset, 0) + n
    return found
