"""Options and helpers that several subcommands of `dataset` share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dataset.models.files import ModelError

messages = Console(stderr=True)


def default_store() -> str:
    """Return the folder that `tracker` and `worker` use when SHOAL_STORE is not set."""
    return str(Path(os.environ.get("SHOAL_HOME", ".shoal")) / "store")


StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="SHOAL_STORE",
        default_factory=default_store,
        show_default=".shoal/store",
        help="Folder or object store URI.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def needs_extra(extra: str = "models") -> Iterator[None]:
    """Import the modules that run models within this block: a plain install has no torch, and importing it takes
    seconds.

    Raises: ModelError when a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: install Shoal with its extra [{extra}].") from error
