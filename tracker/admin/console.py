"""How the command `tracker` speaks: stdout is data, for people or as JSON, stderr is talk.

Invariant: what destroys shows what it would hit and changes nothing, until --yes or a person's yes at a terminal.
"""

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from tracker import strict_json
from tracker.database.database import Connection, connect, database_url
from tracker.database.enums import QUEUES
from tracker.database.version import require_head
from tracker.errors import TrackerError
from tracker.settings import Settings

app = typer.Typer(
    help="Who does what: monitor and steer the swarm.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # Rich's tracebacks print local variables, passwords among them
)
out = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this it only shows what it would hit.")]
Queue = StrEnum("Queue", {name: name for name in QUEUES})  # type: ignore[misc]
QueueOrAll = StrEnum("QueueOrAll", {name: name for name in (*QUEUES, "all")})  # type: ignore[misc]


def open_tracker() -> Connection:
    """A connection to a database of this version's schema."""
    connection = connect(database_url(Settings.from_environment()))
    require_head(connection)
    return connection


def show(data: Mapping[str, Any], as_json: bool, text: Callable[[], RenderableType]) -> None:
    """Print what a command found or did; moments and uuids are strings in JSON."""
    if as_json:
        out.print_json(strict_json.dumps(data, default=str), ensure_ascii=True)
    else:
        shown = text()
        out.print(shown, highlight=False, markup=False, soft_wrap=isinstance(shown, str))


def tell(data: Mapping[str, Any], as_json: bool, sentence: str) -> None:
    """Say on stderr what was done; with --json it is data."""
    if as_json:
        show(data, as_json, lambda: sentence)
    else:
        sys.stderr.write(f"{sentence}\n")


def agree(
    hit: Mapping[str, Any], question: str, *, yes: bool, as_json: bool, text: Callable[[], RenderableType]
) -> None:
    """Return if it may be done; else show what it would hit.

    Raises:
        TrackerError: nobody has said yes.
    """
    if yes:
        return
    show({"changed": False, **hit}, as_json, text)
    if not as_json and sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True):
        return
    raise TrackerError("nothing was changed: add --yes to do it")
