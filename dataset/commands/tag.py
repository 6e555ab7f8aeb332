"""`dataset tag`: tags of a finished release's rows by heads, as the side table `tags`."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.commands.side_tables import WorkersOption, threads_of
from dataset.store.store import Store


def tag_command(
    release: ReleaseArgument,
    head: Annotated[
        list[str],
        typer.Option(metavar="FILE|NAME", help="Head file, or the name of a head in the store. One for each tag."),
    ],
    store: StoreOption,
    model: Annotated[
        str, typer.Option(metavar="NAME", show_default="the one that fits", help="Folder below embeddings/ to read.")
    ] = "",
    workers: WorkersOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Tag again, even if these heads did.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tag the rows of a release with heads, as columns of the side table tags.

    Heads of embeddings read embeddings/; heads of pictures read the pictures that are kept.

    An interrupted call continues when it is repeated.
    """
    with needs_extra("release"):
        from dataset.tagging.given_heads import find_heads
        from dataset.tagging.run import tag
    opened = open_named_release(release, store)
    heads = find_heads(opened.store if opened.folder else Store.open(store, writable=False), head)
    with needs_extra(), PhaseBars() as bars:
        table = tag(opened, heads, model=model, threads=threads_of(workers), restart=restart, on_progress=bars.show)
    said = {name: asdict(table.heads[name]) for name in sorted(heads)}
    if as_json:
        sys.stdout.write(strict_json.dumps({"table": table.name, "rows": table.rows, "heads": said}) + "\n")
        return
    sys.stdout.write("".join(f"{line}\n" for name, one in said.items() for line in _lines(name, one)))


def _lines(name: str, head: dict[str, Any]) -> list[str]:
    lines = [f"{head['rows']:>15,}  rows have {name} by {head['head']}, sha256 {head['sha256'][:12]}…"]
    return lines + [f"{rows:>15,}  rows have none: {reason}" for reason, rows in head["left_out"].items()]
