"""The commands that steer the whole swarm: set, pause, resume, limit, log, doctor."""

from typing import Annotated

import typer

from tracker.accounts import changes, controls
from tracker.admin import change_log
from tracker.admin import doctor as doctors
from tracker.admin.console import Json, Queue, QueueOrAll, app, open_tracker, show, tell
from tracker.database.database import connect, database_url
from tracker.database.enums import QUEUES
from tracker.settings import Settings


@app.command("set", context_settings={"ignore_unknown_options": True})
def set_value(name: str, value: float, as_json: Json = False) -> None:
    """Change a setting (docs/settings.md).

    `tracker status --json` shows all settings. Workers read them when they register.
    """
    with open_tracker() as connection:
        before = controls.change_setting(connection, name, value)
    tell({"setting": name, "before": before, "after": value}, as_json, f"{name} is {value:g}, it was {before}")


@app.command()
def pause(queue: QueueOrAll, as_json: Json = False) -> None:
    """Stop handing out jobs of a queue; leased jobs continue."""
    _set_paused(queue, paused=True, as_json=as_json)


@app.command()
def resume(queue: QueueOrAll, as_json: Json = False) -> None:
    """Hand out jobs of a paused queue again."""
    _set_paused(queue, paused=False, as_json=as_json)


@app.command()
def limit(
    queue: Queue,
    most: Annotated[str, typer.Argument(metavar="N|none", help="Maximum number of leased jobs, or none for no limit.")],
    as_json: Json = False,
) -> None:
    """Limit how many jobs of a queue are leased at once.

    Jobs that are leased already continue, also above the limit.
    """
    if most != "none" and not (most.isascii() and most.isdecimal() and len(most) < 10):
        raise typer.BadParameter(f"'{most}' is neither a number nor 'none'")
    wanted = None if most == "none" else int(most)
    with open_tracker() as connection:
        before = controls.set_limit(connection, queue.value, wanted)
    data = {"queue": queue.value, "before": before, "after": wanted}
    number = "any number of jobs" if wanted is None else f"at most {wanted} jobs"
    tell(data, as_json, f"{queue.value}: {number} may be leased at once")


@app.command("log")
def list_changes(
    by: Annotated[str | None, typer.Option("--command", help="Only changes by this command, for example set.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many changes to show, the latest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what was changed, by whom and when."""
    with open_tracker() as connection:
        entries = changes.changes(connection, command=by, limit=limit)
    show({"changes": entries}, as_json, lambda: change_log.render(entries))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check the database, with a remedy for each fault.

    The exit code is 1 if a finding is bad: a fault that can lose work, or that lets a worker do something forbidden.
    """
    with connect(database_url(Settings.from_environment())) as connection:
        findings = doctors.examine(connection)
    data = {"healthy": doctors.is_healthy(findings), "findings": [finding.to_json() for finding in findings]}
    show(data, as_json, lambda: doctors.render(findings))
    if not data["healthy"]:
        raise typer.Exit(1)


def _set_paused(queue: QueueOrAll, *, paused: bool, as_json: bool) -> None:
    queues = QUEUES if queue.value == "all" else (queue.value,)
    with open_tracker() as connection:
        changed = controls.set_paused(connection, queues, paused=paused)
    state = "paused" if paused else "open"
    tell(
        {"paused": paused, "changed": changed},
        as_json,
        f"now {state}: {', '.join(changed) or 'nothing new'}",
    )
