"""The commands for files in the store: keep-shards, sweep."""

import sys
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from tracker.accounts.changes import record
from tracker.admin.console import Json, Yes, agree, app, open_tracker, show, tell
from tracker.admin.listing import text_table
from tracker.database.database import translated
from tracker.settings import Settings
from tracker.storage import retention
from tracker.storage import sweep as sweeping

MAX_SHOWN = 20
MAX_IN_JSON = 1000
SET_KEEP = "UPDATE tracker.run SET keep_shards = %s WHERE name = %s"
OLD_KEEP = "SELECT keep_shards FROM tracker.run WHERE name = %s FOR NO KEY UPDATE"


@app.command("keep-shards")
def keep_shards(
    run: str,
    time: Annotated[
        str,
        typer.Argument(
            metavar="24h|kept|forever", help="A time like 24h or 7d; kept: only the pictures of kept pairs."
        ),
    ],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Set how long a run's pictures stay after filtering.

    It needs --yes if some would be deleted at once.
    """
    with open_tracker() as connection:
        at_once = retention.due(connection, run, time)
        hit = {"run": run, "keep_shards": time, "shards": at_once.shards, "bytes": at_once.bytes}
        if at_once.shards:
            sentence = f"the pictures of {at_once.shards:,} shards ({at_once.bytes:,} bytes) would be deleted at once"
            agree(hit, "Delete them?", yes=yes, as_json=as_json, text=lambda: sentence)
        with translated(), connection.transaction():
            row = connection.execute(OLD_KEEP, (run,)).fetchone()
            assert row is not None
            before = row["keep_shards"]
            connection.execute(SET_KEEP, (time, run))
            if before != time:
                record(connection, "keep-shards", run, before={"keep_shards": before}, after={"keep_shards": time})
    tell({"changed": before != time, "before": before, **hit}, as_json, f"{run}: shards are kept {time}, was {before}")


@app.command()
def sweep(
    older_than: Annotated[
        str, typer.Option(help="Only files that have not changed for this time, like 24h or 7d.")
    ] = "24h",
    yes: Annotated[
        bool, typer.Option("--yes/--dry-run", help="Delete the files; without this, only show them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find files that dead workers left, and delete them."""
    age = _duration(older_than)
    with open_tracker() as connection:
        swept = sweeping.sweep(
            connection,
            Settings.from_environment().store,
            older_than=age,
            delete=yes,
            show=MAX_IN_JSON if as_json else MAX_SHOWN,
            on_files=_progress,
        )
        files, size = swept.to_delete
        if yes and files:
            with translated(), connection.transaction():
                record(connection, "sweep", older_than, before={"files": files, "bytes": size}, after=None)
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    data = {
        "deleted": yes,
        "files": files,
        "bytes": size,
        "seen": {why.value: {"files": swept.files[why], "bytes": swept.bytes[why]} for why in sweeping.Reason},
        "first": [{"path": path, "bytes": n, "why": why.value} for path, n, why in swept.first],
    }
    show(data, as_json, lambda: _render(data))


def _duration(text: str) -> timedelta:
    word = retention.checked(text)
    if word in (retention.KEPT, retention.FOREVER):
        raise typer.BadParameter(f"'{text}' is not a time: give one like 24h or 7d")
    return timedelta(seconds=int(word[:-1]) * retention.SECONDS[word[-1]])


def _progress(files: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{files:,} files examined")


def _render(data: dict[str, Any]) -> RenderableType:
    table = text_table("reason", "bytes", "file")
    for row in data["first"]:
        table.add_row(row["why"], f"{row['bytes']:,}", Text(row["path"]))
    seen = ", ".join(f"{of['files']:,} {why}" for why, of in data["seen"].items() if of["files"])
    did = "deleted" if data["deleted"] else "to delete (add --yes)"
    said = Text(f"{data['files']:,} files with {data['bytes']:,} bytes {did}; in the store: {seen or 'nothing'}")
    return Group(table, said) if data["first"] else said
