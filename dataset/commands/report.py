"""`dataset report`: one HTML page about a store."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dataset.commands.options import StoreOption
from dataset.report.report import write_report
from dataset.store.store import Store


def report_command(
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Shoal",
) -> None:
    """Write an HTML page: samples kept and dropped, similarities, outcomes, languages.

    It covers everything that the manifest lists.
    """
    write_report(Store.open(store, writable=False), out, title)
    sys.stdout.write(f"{out}\n")
