"""The command `tracker`. Exit codes: 0, 1 (failed), 2 (usage).

The commands of tracker/admin join the app when they are imported. Alembic, the web server and the audit are imported by
the commands that need them, so that `tracker status` starts fast.
"""

import io
import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from tracker.accounts.changes import record
from tracker.admin import (  # noqa: F401
    block_commands,
    build_commands,
    control_commands,
    embed_command,
    hash_list_commands,
    job_commands,
    launch_command,
    list_commands,
    passwords,
    plan_commands,
    store_commands,
    takedown_command,
    worker_commands,
)
from tracker.admin.console import Json, Queue, app, open_tracker, out, show, tell
from tracker.admin.status import StatusView
from tracker.database import embedded_postgres
from tracker.database.database import Connection, connect, database_url, translated
from tracker.database.version import require_head, require_owner
from tracker.errors import TrackerError
from tracker.seeding import runs as seeding
from tracker.seeding import wat_paths
from tracker.seeding.link_list import Columns, split_names
from tracker.settings import HTTP_PLACE, Settings
from tracker.storage import manifest as manifests
from tracker.watch.snapshot import take_snapshot

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; an error is one sentence on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # print ? for what the terminal cannot show
    try:
        app()
    except TrackerError as error:
        sys.stderr.write(f"tracker: {error}\n")
        raise SystemExit(1) from None


@app.command()
def migrate(as_json: Json = False) -> None:
    """Install or upgrade the database's schema."""
    from tracker.database import migrate as migrating

    revision = migrating.migrate(database_url(Settings.from_environment()))
    tell({"revision": revision}, as_json, f"the database is at revision {revision}")


@app.command()
def seed(
    sources: Annotated[
        list[str], typer.Argument(help="WAT files, wat.paths.gz or link lists: a path, https:// or s3://.")
    ],
    run: Annotated[str | None, typer.Option(help="Name of the run; default: the crawl's name.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="JSON file from `dataset recipe`; default: LAION's rules.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Take only N of the WAT files, chosen at random.")
    ] = None,
    random_seed: Annotated[int, typer.Option(help="Seed of --sample; the same seed chooses the same files.")] = 0,
    keep_shards: Annotated[
        str | None,
        typer.Option(help="How long pictures stay after filtering: a time like 24h (default), kept or forever."),
    ] = None,
    url_col: Annotated[str | None, typer.Option(help="URL column; the sources are then link lists.")] = None,
    caption_col: Annotated[str | None, typer.Option(help="Caption column of a link list.")] = None,
    sha256_col: Annotated[
        str | None, typer.Option(help="Column with the sha256 of the pictures; others end as changed.")
    ] = None,
    extra_cols: Annotated[str, typer.Option(help="Further columns of a link list to keep, separated by commas.")] = "",
    language_col: Annotated[
        str | None, typer.Option(help="Language column of a link list; without it, all rows are nolang.")
    ] = None,
    detect_language: Annotated[
        bool, typer.Option("--detect-language", help="Detect the languages of a link list's captions.")
    ] = False,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep links of a link list that were seen before.")
    ] = False,
    with_filter: Annotated[
        bool, typer.Option("--filter", help="Score a link list's pairs, like those of a crawl.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add WAT files or link lists to a run."""
    if url_col is not None:
        if sample is not None:
            raise TrackerError("--sample is only for WAT files: leave it out, or name fewer link lists")
        columns = Columns(url_col, caption_col, language_col, split_names(extra_cols), sha256_col)
        asked = list_commands.Asked(
            columns, detect_language=detect_language, keep_duplicates=keep_duplicates, with_filter=with_filter,
            keep_shards=keep_shards,
        )  # fmt: skip
        return list_commands.seed_lists(sources, asked, run=run, recipe=recipe, as_json=as_json)
    list_commands.require_crawl(
        sources,
        {
            "caption-col": caption_col,
            "sha256-col": sha256_col,
            "extra-cols": extra_cols,
            "language-col": language_col,
            "detect-language": detect_language,
            "keep-duplicates": keep_duplicates,
            "filter": with_filter,
        },
    )
    wats = [wat for source in sources for wat in wat_paths.list_wats(source)]
    drawn = {} if sample is None else {"sample": sample, "of": len(wats), "random_seed": random_seed}
    if sample is not None:
        wats = wat_paths.sample(wats, sample, random_seed)
    known = seeding.read_recipe(recipe) if recipe else None
    name = run or seeding.run_name(sources)
    with open_tracker() as connection, translated(), connection.transaction():
        seeded = seeding.seed(connection, wats, run=name, recipe=known, keep_shards=keep_shards)
        data = {"run": seeded.run, "wats": seeded.wats, "new": seeded.new, **drawn}
        if seeded.new:
            record(connection, "seed", seeded.run, before=None, after=data)
    said = f", drawn from {drawn['of']} with random seed {random_seed}" if drawn else ""
    show(data, as_json, lambda: f"run {seeded.run}: {seeded.new} new WAT files of {seeded.wats}{said}")
    return None


@app.command()
def status(
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    every_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two refreshes.")] = 2.0,
) -> None:
    """Show queues, pool, outcomes and workers."""
    with open_tracker() as connection:
        if not watch:
            seen = take_snapshot(connection)
            return show(seen, as_json, lambda: StatusView(seen))
        try:
            with Live(_screen(connection), console=out, screen=out.is_terminal, auto_refresh=False) as live:
                while True:
                    time.sleep(every_seconds)
                    live.update(_screen(connection), refresh=True)
        except KeyboardInterrupt:
            return None


def _screen(connection: Connection) -> StatusView:
    return StatusView(take_snapshot(connection), is_one_screen=out.is_terminal)


@app.command()
def audit(
    exact: Annotated[bool, typer.Option("--exact", help="Also count rows and read all shards.")] = False,
    as_json: Json = False,
) -> None:
    """Check that no link was lost or counted twice.

    The law is in = pool + again + leased + finished. The exit code is 1 if it does not hold.
    """
    from tracker.accounts import audit as auditing

    settings = Settings.from_environment()
    with open_tracker() as connection:
        found = auditing.audit_exact(connection, settings.store) if exact else auditing.audit(connection)
    data = found.to_json()
    show(data, as_json, lambda: "\n".join(_audit_lines(data)))
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def manifest(as_json: Json = False) -> None:
    """Write manifest.parquet, the list of all outputs."""
    settings = Settings.from_environment()
    with open_tracker() as connection:
        n = manifests.write_manifest(connection, settings.store)
    data = {"path": f"{settings.store}/{manifests.NAME}", "outputs": n}
    show(data, as_json, lambda: f"{data['path']}: {n} outputs")


@app.command()
def serve(
    every_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two rounds.")] = 5.0,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            envvar="SHOAL_HTTP",
            help=f"Where to serve the status page, /metrics and /healthz, or off. Default: {HTTP_PLACE}, if free.",
        ),
    ] = None,
) -> None:
    """Do the tracker's duties, and serve the status page.

    It folds the ledger, opens leaves, forgets dead workers, puts new deny
    lists into force and deletes pictures whose time is over. Ctrl-C ends it.
    """
    from tracker.duties import serve as serving
    from tracker.watch import site

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = Settings.from_environment()
    url = database_url(settings)
    with connect(url) as connection:
        require_head(connection)
        require_owner(connection)
    duties = serving.Duties(every_seconds)
    with site.shown(url, duties, http):
        serving.serve(url, stop, duties, store=settings.store)


@app.command()
def rotate(
    kind: Queue,
    password_file: Annotated[Path, typer.Option(help="File whose first line is the new password.")],
    as_json: Json = False,
) -> None:
    """Set the password of a worker class's login.

    Open connections continue.
    """
    password = passwords.read_password(password_file)
    with open_tracker() as connection, translated(), connection.transaction():
        login = passwords.rotate(connection, kind.value, password)
        record(connection, "rotate", login, before=None, after=None)
    show({"login": login}, as_json, lambda: f"{login} has a new password")


@app.command()
def stop(as_json: Json = False) -> None:
    """Stop the embedded Postgres."""
    stopped = embedded_postgres.stop(Settings.from_environment().home)
    tell({"stopped": stopped}, as_json, "stopped" if stopped else "the embedded Postgres is not running")


def _audit_lines(data: dict[str, Any]) -> list[str]:
    finished = sum(data["finished"].values())
    waiting = f"pool {data['pool']:,} + again {data['again']:,} + leased {data['leased']:,}"
    law = f"in {data['in']:,} = {waiting} + finished {finished:,}"
    return [law, _bloom_line(data["bloom"]), *(data["differences"] or ["no link is lost, and none is counted twice"])]


def _bloom_line(cost: dict[str, Any]) -> str:
    """Return how many links the Bloom filter dropped, and how many of them were probably new."""
    rates = f"{cost['expected_rate']:.4%} of all new links; the setting bloom_rate allows {cost['rate']:.4%}"
    return (
        f"the Bloom filter dropped {cost['dropped']:,} of {cost['read']:,} links as known, of which about "
        f"{cost['expected_wrong']:,.1f} were new ({rates})"
    )
