"""The command `tracker`: its groups of commands, and how results are printed. Data goes to stdout, as text or JSON;
messages go to stderr.

Invariant: a command that destroys something shows what it would change, and changes nothing without --yes or a
person's yes at a terminal.
"""

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from tracker import strict_json
from tracker.command_help import Version, hide_types_of_flags
from tracker.database.database import Connection, connect, database_url
from tracker.database.enums import QUEUES
from tracker.database.version import require_head
from tracker.errors import TrackerError
from tracker.settings import Settings

GROUPS = {
    "Most used": ("migrate", "seed", "status", "serve", "audit", "doctor"),
    "Workers and machines": ("workers", "drain", "evict", "enroll", "revoke", "rotate", "launch"),
    "Jobs": ("jobs", "job", "retry", "discard", "priority", "lists", "embed"),
    "Builds over a release": ("index", "dedup", "tag"),
    "Steering": ("set", "pause", "resume", "limit", "log"),
    "What must not be fetched or kept": ("block", "unblock", "blocks", "hash-lists", "takedown"),
    "Planning": ("plan", "rebalance"),
    "Store and server": ("manifest", "keep-shards", "sweep", "stop"),
}
"""The commands as the help lists them."""


class GroupedCommands(TyperGroup):
    """The commands in the order and under the headings of GROUPS."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for heading, names in GROUPS.items():
            for name in names:
                self.commands[name].rich_help_panel = heading  # type: ignore[attr-defined]
        self.commands = {name: self.commands[name] for names in GROUPS.values() for name in names}
        hide_types_of_flags(self)


app = typer.Typer(
    cls=GroupedCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # Rich's tracebacks print local variables, including passwords
)
out = Console()


@app.callback()
def tracker(version: Version = False) -> None:
    """Run and steer the swarm: its jobs, workers and results."""
    del version  # printed by its callback


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Make the change; without this, only show what would change.")]
Queue = StrEnum("Queue", {name: name for name in QUEUES})  # type: ignore[misc]
QueueOrAll = StrEnum("QueueOrAll", {name: name for name in (*QUEUES, "all")})  # type: ignore[misc]


def open_tracker() -> Connection:
    """Open a connection to the database, and check that its schema is this version's."""
    connection = connect(database_url(Settings.from_environment()))
    require_head(connection)
    return connection


def show(data: Mapping[str, Any], as_json: bool, text: Callable[[], RenderableType]) -> None:
    """Print a command's result. In JSON, times and uuids are strings."""
    if as_json:
        out.print_json(strict_json.dumps(data, default=str), ensure_ascii=True)
    else:
        shown = text()
        out.print(shown, highlight=False, markup=False, soft_wrap=isinstance(shown, str))


def tell(data: Mapping[str, Any], as_json: bool, sentence: str) -> None:
    """Write a sentence about the command's effect to stderr; with --json, print data instead."""
    if as_json:
        show(data, as_json, lambda: sentence)
    else:
        sys.stderr.write(f"{sentence}\n")


def agree(
    hit: Mapping[str, Any], question: str, *, yes: bool, as_json: bool, text: Callable[[], RenderableType]
) -> None:
    """Return if the user agrees; otherwise show what would change.

    Raises:
        TrackerError: the user did not agree.
    """
    if yes:
        return
    show({"changed": False, **hit}, as_json, text)
    if not as_json and sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm(question, err=True):
        return
    raise TrackerError("nothing was changed: add --yes to do it")
