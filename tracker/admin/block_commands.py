"""The commands for hosts and URLs that no worker may contact: block, unblock, blocks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tracker.accounts import blocks as blocking
from tracker.admin.console import Json, app, open_tracker, show, tell
from tracker.admin.listing import text_table
from tracker.database.database import Row
from tracker.errors import TrackerError

Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[HOST|URL-PREFIX]...",
        help="A host with its subdomains (example.com), or a URL prefix (example.com/photos).",
    ),
]
FromFile = Annotated[Path | None, typer.Option("--file", help="File with one of them per line; # starts a comment.")]


@app.command()
def block(
    reason: Annotated[str, typer.Option(help="Why it is blocked; shown by `tracker blocks` and `tracker log`.")],
    patterns: Patterns = None,
    file: FromFile = None,
    as_json: Json = False,
) -> None:
    """Block hosts or URL prefixes for all download workers.

    A blocked host includes its subdomains. Workers learn of a change with their next heartbeat.
    """
    with open_tracker() as connection:
        changed = blocking.block(connection, [*(patterns or ()), *_lines(file)], reason)
    tell({"blocked": changed}, as_json, f"blocked: {_brief(changed)}")


@app.command()
def unblock(patterns: Patterns = None, file: FromFile = None, as_json: Json = False) -> None:
    """Lift blocks; links that ended as blocked are not retried."""
    with open_tracker() as connection:
        changed = blocking.unblock(connection, [*(patterns or ()), *_lines(file)])
    tell({"unblocked": changed}, as_json, f"no longer blocked: {_brief(changed)}")


@app.command("blocks")
def list_blocks(as_json: Json = False) -> None:
    """List blocked hosts and prefixes, with date and reason."""
    with open_tracker() as connection:
        rows = blocking.blocks(connection)
    show({"blocks": rows}, as_json, lambda: _render(rows))


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrackerError(f"{file} cannot be read ({error}): give a text file, one host per line") from error
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def _brief(patterns: list[str]) -> str:
    if not patterns:
        return "nothing new"
    more = f" and {len(patterns) - 5} more" if len(patterns) > 5 else ""
    return ", ".join(patterns[:5]) + more


def _render(rows: Sequence[Row]) -> Table:
    table = text_table("since", "blocked", "reason")
    for row in rows:
        table.add_row(f"{row['blocked_at']:%Y-%m-%d}", Text(row["pattern"]), Text(row["reason"]))
    return table
