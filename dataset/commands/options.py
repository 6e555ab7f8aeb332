"""The options that several of the command `dataset`'s subcommands take."""

import os
from pathlib import Path
from typing import Annotated

import typer


def default_store() -> str:
    """The folder that `tracker` and `worker` take where SHOAL_STORE is not set."""
    return str(Path(os.environ.get("SHOAL_HOME", ".shoal")) / "store")


StoreOption = Annotated[
    str,
    typer.Option("--store", envvar="SHOAL_STORE", default_factory=default_store, help="Folder or object store URI."),
]
