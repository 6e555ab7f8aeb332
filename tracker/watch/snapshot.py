"""A snapshot of the swarm, as data: `tracker status`, the status page and Prometheus show it."""

from collections.abc import Mapping
from typing import Any

from tracker.accounts import fleet
from tracker.accounts.balance import balance
from tracker.accounts.ledger import Accounts, accounts, total
from tracker.database.database import Connection, query, translated
from tracker.database.enums import NOT_WANTED, QUEUES, SUBSETS
from tracker.watch import pace
from tracker.watch.alarms import alarms
from tracker.watch.server import server


def take_snapshot(connection: Connection) -> dict[str, Any]:
    """Return queues, pool, outcomes and workers; `tracker status --json` prints these keys."""
    with translated():
        queues = {row.pop("queue"): row for row in connection.execute(query("queues")).fetchall()}
        expired = {row["queue"]: row["n"] for row in connection.execute(query("expired"))}
        minutes = pace.by_minute(connection.execute(query("minutes")).fetchall())
        filtered = {row["label"]: row["n"] for row in connection.execute(query("filtered"))}
        errors = connection.execute(query("errors")).fetchall()
        settings = {row["name"]: row["value"] for row in connection.execute("SELECT name, value FROM tracker.setting")}
        runs = connection.execute("SELECT name, recipe, created_at::text FROM tracker.run ORDER BY run_id").fetchall()
        bloom = connection.execute(query("bloom")).fetchone()
        builds = connection.execute(query("builds")).fetchall()
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
        "links": _link_states(whole.finished) if any(row["recipe"].get("sha256_column") for row in runs) else None,
        "filtered": filtered,
        "rates": rates,
        "minutes": minutes,
        "alive": {kind: sum(row["kind"] == kind and row["alive"] for row in workers) for kind in QUEUES},
        "workers": workers,
        "errors": errors,
        "runs": runs,
        "builds": builds,
        "settings": settings,
        "bloom": bloom,
        "server": server(connection),
    }
    return seen | {"alarms": alarms(seen)}


def _link_states(finished: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of finished links by whether they are live, changed or dead."""
    unknown = sum(finished.get(outcome, 0) for outcome in NOT_WANTED)
    live, changed = finished.get("success", 0), finished.get("changed", 0)
    dead = sum(finished.values()) - live - changed - unknown
    return {"live": live, "changed": changed, "dead": dead, "not_wanted": unknown}


def _sum(known: Accounts, subset: str, place: str) -> int:
    return sum(getattr(of, place) for (_, its), of in known.items() if its == subset)
