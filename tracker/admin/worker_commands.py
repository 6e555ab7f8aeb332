"""The commands for workers and their machines: workers, drain, evict, enroll, revoke."""

from typing import Annotated

import typer

from tracker.accounts import fleet
from tracker.admin import enroll as enrolling
from tracker.admin import fleet_table
from tracker.admin.console import Json, Queue, Yes, agree, app, open_tracker, show, tell
from tracker.settings import Settings

Workers = Annotated[str, typer.Argument(help="A worker's id or its first letters, a host, or an enrolled machine.")]


@app.command("workers")
def list_workers(
    kind: Annotated[Queue | None, typer.Option(help="Only workers of this kind.")] = None, as_json: Json = False
) -> None:
    """List the workers: where they run and what they do."""
    with open_tracker() as connection:
        rows = fleet.workers(connection, kind=kind.value if kind else None)
    show({"workers": rows}, as_json, lambda: fleet_table.render(rows))


@app.command()
def drain(worker: Workers, as_json: Json = False) -> None:
    """Let workers finish what they hold, then leave."""
    with open_tracker() as connection:
        found = fleet.find(connection, worker)
        n = fleet.drain(connection, found)
    data = {"workers": [row["worker"] for row in found], "drained": n}
    tell(data, as_json, f"workers that finish what they hold, then leave: {n}")


@app.command()
def evict(worker: Workers, yes: Yes = False, as_json: Json = False) -> None:
    """Take all jobs away from workers at once.

    Other workers get the jobs, and what an evicted worker still sends is refused.
    """
    with open_tracker() as connection:
        found = fleet.find(connection, worker)
        agree({"workers": found}, "Evict these?", yes=yes, as_json=as_json, text=lambda: fleet_table.render(found))
        n = fleet.evict(connection, found)
    data = {"changed": True, "workers": [row["worker"] for row in found], "returned": n}
    tell(data, as_json, f"workers evicted: {len(found)}; jobs ready again: {n}")


@app.command()
def enroll(
    name: str, kind: Annotated[Queue, typer.Option(help="The stage that its workers do.")], as_json: Json = False
) -> None:
    """Register a machine, and print its workers' token."""
    with open_tracker() as connection:
        token = enrolling.enroll(connection, name, kind.value)
        url = enrolling.login_url(connection, kind.value, Settings.from_environment().database_url or "")
    show({"machine": name, "kind": kind.value, "token": token, "url": url}, as_json, lambda: token)
    if not as_json:
        tell({}, as_json, f"start its workers with this SHOAL_TOKEN, and with SHOAL_DATABASE_URL={url}")


@app.command()
def revoke(name: str, yes: Yes = False, as_json: Json = False) -> None:
    """Lock a machine out; others get its jobs at once."""
    with open_tracker() as connection:
        found = enrolling.machine_workers(connection, name)
        agree(
            {"machine": name, "workers": found}, f"Revoke {name}?", yes=yes, as_json=as_json,
            text=lambda: fleet_table.render(found),
        )  # fmt: skip
        n = enrolling.revoke(connection, name)
    tell({"changed": True, "machine": name, "workers": n}, as_json, f"{name} is revoked; it had {n} workers")
