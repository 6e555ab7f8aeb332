"""The commands for workers and their machines: workers, drain, evict, enroll, revoke."""

from functools import partial
from typing import Annotated

import typer

from tracker.accounts import fleet
from tracker.admin import enroll as enrolling
from tracker.admin import fleet_table
from tracker.admin.console import Json, Queue, Yes, agree, app, open_tracker, show, tell
from tracker.settings import Settings

Workers = Annotated[str, typer.Argument(help="A worker's id or its first letters, a host, or an enrolled machine.")]

command = partial(app.command, rich_help_panel="Workers and machines")


@command("workers")
def list_workers(
    kind: Annotated[Queue | None, typer.Option(help="Only those of a kind.")] = None, as_json: Json = False
) -> None:
    """List the workers: where they run, what they hold and do; the stuck and the silent are marked."""
    with open_tracker() as connection:
        rows = fleet.workers(connection, kind=kind.value if kind else None)
    show({"workers": rows}, as_json, lambda: fleet_table.render(rows))


@command()
def drain(worker: Workers, as_json: Json = False) -> None:
    """Let a worker end what it holds and leave; it gets nothing new."""
    with open_tracker() as connection:
        found = fleet.find(connection, worker)
        n = fleet.drain(connection, found)
    data = {"workers": [row["worker"] for row in found], "drained": n}
    tell(data, as_json, f"workers that end what they hold and leave: {n}")


@command()
def evict(worker: Workers, yes: Yes = False, as_json: Json = False) -> None:
    """Take away what a worker holds: others get it at once, and what the worker still sends is refused."""
    with open_tracker() as connection:
        found = fleet.find(connection, worker)
        agree({"workers": found}, "Evict these?", yes=yes, as_json=as_json, text=lambda: fleet_table.render(found))
        n = fleet.evict(connection, found)
    data = {"changed": True, "workers": [row["worker"] for row in found], "returned": n}
    tell(data, as_json, f"workers evicted: {len(found)}; jobs ready again: {n}")


@command()
def enroll(name: str, kind: Annotated[Queue, typer.Option()], as_json: Json = False) -> None:
    """Make a machine known; prints the token that its workers register with (SHOAL_TOKEN)."""
    with open_tracker() as connection:
        token = enrolling.enroll(connection, name, kind.value)
        url = enrolling.login_url(connection, kind.value, Settings.from_environment().database_url or "")
    show({"machine": name, "kind": kind.value, "token": token, "url": url}, as_json, lambda: token)
    if not as_json:
        tell({}, as_json, f"its workers start with SHOAL_TOKEN set to this, and SHOAL_DATABASE_URL to {url}")


@command()
def revoke(name: str, yes: Yes = False, as_json: Json = False) -> None:
    """Lock a machine out; what it holds is ready for others at once."""
    with open_tracker() as connection:
        found = enrolling.machine_workers(connection, name)
        agree(
            {"machine": name, "workers": found}, f"Revoke {name}?", yes=yes, as_json=as_json,
            text=lambda: fleet_table.render(found),
        )  # fmt: skip
        n = enrolling.revoke(connection, name)
    tell({"changed": True, "machine": name, "workers": n}, as_json, f"{name} is revoked; it had {n} workers")
