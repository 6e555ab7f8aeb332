"""Common parts of the help of all commands: `--version`, and flags without a type.

Typer shows `<bool>` next to a flag, as if the flag took a value.
"""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class PlainGroup(TyperGroup):
    """A group of commands whose flags show no type."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        hide_types_of_flags(self)


def hide_types_of_flags(command: Any) -> None:
    """Remove the type from the help of each flag of a command and of the commands in it."""
    parameters = command.get_params  # with --help, which is not among the command's own
    command.get_params = lambda ctx: [_hide_type(parameter) for parameter in parameters(ctx)]
    for inner in getattr(command, "commands", {}).values():
        hide_types_of_flags(inner)


def _hide_type(parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False) and parameter.metavar is None:
        parameter.metavar = ""
    return parameter


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"shoal {version('shoal')}\n")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
