"""The command `tracker`: the admin's console. stdout is data, stderr is talk; exit 0, 1 (failed) or 2 (usage)."""

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.live import Live

from tracker import audit as auditing
from tracker import embedded, enroll, seed_source
from tracker import manifest as manifests
from tracker import migrate as migrating
from tracker import seed as seeding
from tracker import serve as serving
from tracker import status as statuses
from tracker.database import Connection, connect, database_url, translated
from tracker.errors import TrackerError
from tracker.schema import QUEUES
from tracker.settings import Settings

app = typer.Typer(help="Who does what: monitor and steer the swarm.", no_args_is_help=True, add_completion=False)
out = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Queue = StrEnum("Queue", {name: name for name in QUEUES})  # type: ignore[misc]


def main() -> None:
    """Run the command; an error is one sentence on stderr and exit code 1."""
    try:
        app()
    except (TrackerError, seed_source.SourceError) as error:
        sys.stderr.write(f"tracker: {error}\n")
        raise SystemExit(1) from None


@app.command()
def migrate() -> None:
    """Bring the database to this version's schema: roles, tables, functions, grants."""
    revision = migrating.migrate(database_url(Settings.from_environment()))
    _say(f"the database is at revision {revision}")


@app.command()
def seed(
    sources: Annotated[list[str], typer.Argument(help="WAT files or wat.paths.gz: a path, https:// or s3://.")],
    run: Annotated[str | None, typer.Option(help="The run's name; default: the crawl's.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON from `dataset recipe`; default: LAION's rules.")] = None,
    as_json: Json = False,
) -> None:
    """Add WAT files to a run: one extract job each."""
    wats = [wat for source in sources for wat in seed_source.list_wats(source)]
    known = seeding.read_recipe(recipe) if recipe else None
    with _open() as connection:
        seeded = seeding.seed(connection, wats, run=run or seeding.run_name(sources), recipe=known)
    data = {"run": seeded.run, "wats": seeded.wats, "new": seeded.new}
    _show(data, as_json, lambda: f"run {seeded.run}: {seeded.new} new WAT files of {seeded.wats}")


@app.command()
def status(
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    every_seconds: Annotated[float, typer.Option(min=0.1)] = 2.0,
) -> None:
    """Show queues, pool, outcomes and workers."""
    with _open() as connection:
        if not watch:
            seen = statuses.status(connection)
            return out.print_json(json.dumps(seen)) if as_json else out.print(statuses.render(seen))
        try:
            with Live(statuses.render(statuses.status(connection)), console=out, screen=out.is_terminal) as live:
                while True:
                    time.sleep(every_seconds)
                    live.update(statuses.render(statuses.status(connection)))
        except KeyboardInterrupt:
            return None


@app.command()
def audit(
    exact: Annotated[bool, typer.Option("--exact", help="Count rows and read the shards, too.")] = False,
    as_json: Json = False,
) -> None:
    """Prove that nothing was lost: in = pool + again + leased + finished. Exit 1 when it does not hold."""
    settings = Settings.from_environment()
    with _open() as connection:
        found = auditing.audit_exact(connection, settings.store) if exact else auditing.audit(connection)
    data = found.to_json()
    _show(data, as_json, lambda: "\n".join(_audit_lines(data)))
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def manifest(as_json: Json = False) -> None:
    """Write manifest.parquet, the list of what exists, into the store."""
    settings = Settings.from_environment()
    with _open() as connection:
        n = manifests.write_manifest(connection, settings.store)
    data = {"path": f"{settings.store}/{manifests.NAME}", "outputs": n}
    _show(data, as_json, lambda: f"{data['path']}: {n} outputs")


@app.command()
def serve(every_seconds: Annotated[float, typer.Option(min=0.1, help="Pause between two rounds.")] = 5.0) -> None:
    """Fold the ledger, open leaves, forget dead workers; until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    url = database_url(Settings.from_environment())
    with connect(url) as connection:
        migrating.require_head(connection)
    serving.serve(url, stop, every_seconds=every_seconds)


@app.command("set")
def set_value(name: str, value: float) -> None:
    """Change a setting; `tracker status --json` lists them. Workers read settings when they register."""
    with _open() as connection, translated():
        number = int(value) if value == int(value) else value
        changed = connection.execute("UPDATE tracker.setting SET value = %s WHERE name = %s", (Jsonb(number), name))
        if not changed.rowcount:
            known = ", ".join(row["name"] for row in connection.execute("SELECT name FROM tracker.setting ORDER BY 1"))
            raise TrackerError(f"there is no setting {name}; there are {known}")


@app.command("enroll")
def enroll_machine(name: str, kind: Annotated[Queue, typer.Option()], as_json: Json = False) -> None:
    """Make a machine known; prints the token that its workers register with (SHOAL_TOKEN)."""
    with _open() as connection:
        token = enroll.enroll(connection, name, kind.value)
    _show({"machine": name, "kind": kind.value, "token": token}, as_json, lambda: token)


@app.command("revoke")
def revoke_machine(name: str) -> None:
    """Lock a machine out and let others take over what it holds."""
    with _open() as connection:
        workers = enroll.revoke(connection, name)
    _say(f"{name} is revoked; it had {workers} workers")


@app.command()
def pause(queue: Queue) -> None:
    """Give nothing out of a queue; what is leased goes on."""
    _set_paused(queue, paused=True)


@app.command()
def resume(queue: Queue) -> None:
    """Give work out of a queue again."""
    _set_paused(queue, paused=False)


@app.command()
def stop() -> None:
    """Stop the embedded Postgres."""
    home = Settings.from_environment().home
    _say("stopped" if embedded.stop(home) else "the embedded Postgres does not run")


def _set_paused(queue: Queue, *, paused: bool) -> None:
    with _open() as connection, translated():
        connection.execute("UPDATE tracker.control SET paused = %s WHERE queue = %s", (paused, queue.value))


def _open() -> Connection:
    connection = connect(database_url(Settings.from_environment()))
    migrating.require_head(connection)
    return connection


def _audit_lines(data: dict[str, Any]) -> list[str]:
    finished = sum(data["finished"].values())
    waiting = f"pool {data['pool']:,} + again {data['again']:,} + leased {data['leased']:,}"
    law = f"in {data['in']:,} = {waiting} + finished {finished:,}"
    return [law, *(data["differences"] or ["nothing is lost, nothing is there twice"])]


def _show(data: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    if as_json:
        out.print_json(json.dumps(data))
    else:
        out.print(text(), highlight=False, soft_wrap=True)


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
