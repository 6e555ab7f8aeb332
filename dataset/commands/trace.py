"""`dataset trace`: the origin of a row of a release."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.publish.trace import trace_row
from dataset.store.store import Store


def trace_command(
    release: ReleaseArgument,
    row_id: Annotated[int, typer.Argument(metavar="ID", min=0, help="The row's id.")],
    store: StoreOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the crawl, shard, part, pack, page and WAT file that a row of a release came from."""
    own = Store.open(store, writable=False)
    found = asdict(trace_row(open_named_release(release, store, writable=False), row_id, own))
    if as_json:
        sys.stdout.write(strict_json.dumps(found, ensure_ascii=False) + "\n")
        return
    if found["store"] == ".":  # "." is the store in which the release was published
        found["store"] = own.uri
    for name, value in found.items():
        sys.stdout.write(f"{name:>9}  {'no longer there' if value is None else value}\n")
