"""The commands for what nobody of the fleet may contact: block, unblock, blocks."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tracker.admin import blocks as blocking
from tracker.admin.console import Json, app, open_tracker, show, tell
from tracker.errors import TrackerError

Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[HOST|URL-PREFIX]...",
        help="A host, which blocks its subdomains too (example.com), or a URL prefix (example.com/photos).",
    ),
]
FromFile = Annotated[Path | None, typer.Option("--file", help="More of them, one a line; # begins a comment.")]

command = partial(app.command, rich_help_panel="Steering")


@command()
def block(
    reason: Annotated[str, typer.Option(help="Why; kept in the list and in the log.")],
    patterns: Patterns = None,
    file: FromFile = None,
    as_json: Json = False,
) -> None:
    """Contact hosts (and their subdomains) or URL prefixes no more: every worker hears of it with its next beat."""
    with open_tracker() as connection:
        changed = blocking.block(connection, [*(patterns or ()), *_lines(file)], reason)
    tell({"blocked": changed}, as_json, f"blocked: {_brief(changed)}")


@command()
def unblock(patterns: Patterns = None, file: FromFile = None, as_json: Json = False) -> None:
    """Lift blocks; links that have ended as blocked meanwhile stay so."""
    with open_tracker() as connection:
        changed = blocking.unblock(connection, [*(patterns or ()), *_lines(file)])
    tell({"unblocked": changed}, as_json, f"no longer blocked: {_brief(changed)}")


@command("blocks")
def list_blocks(as_json: Json = False) -> None:
    """List what is blocked, since when and why."""
    with open_tracker() as connection:
        rows = blocking.blocks(connection)
    show({"blocks": rows}, as_json, lambda: blocking.render(rows))


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TrackerError(f"{file} cannot be read as a list of blocks: {error}") from error
    return [text for line in lines if (text := line.partition("#")[0].strip())]


def _brief(patterns: list[str]) -> str:
    if not patterns:
        return "nothing that was not before"
    more = f" and {len(patterns) - 5} more" if len(patterns) > 5 else ""
    return ", ".join(patterns[:5]) + more
