"""`dataset reshard`: WebDataset tars of a selection, from pictures that are still kept."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import open_named_release
from dataset.formats.selections import read_selection
from dataset.select.reshard import MISSING, reshard
from dataset.store.store import Store
from dataset.takedown.screen import Screen


def reshard_command(
    selection: Annotated[str, typer.Argument(help="Folder or URI that `dataset select` has written.")],
    out: Annotated[str, typer.Option(help="Folder or URI for the tars; it must be empty.")],
    store: StoreOption,
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Samples per tar.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle and of the copies.")] = 0,
    caption: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", show_default="TEXT", help="Column with captions, such as TABLE.COLUMN of a side table."
        ),
    ] = None,
    copies: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column with the mean number of samples per row, such as a weight."),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(show_default="as the selection says", help="The release's name in the store, or its folder."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Threads.")] = None,
    memory: Annotated[float, typer.Option(min=0.1, help="GiB for pictures that are sorted at a time.")] = 1.0,
    scratch: Annotated[
        Path | None, typer.Option(show_default="TMPDIR", help="Local folder with enough space for all pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the pictures of a selection that are still kept as shuffled WebDataset tars; list the others."""
    chosen = Store.open(selection, writable=False)
    opened = open_named_release(release or read_selection(chosen).release, store, writable=False)
    with PhaseBars() as bars:
        record = reshard(
            opened,
            chosen,
            Store.open(out),
            screen=Screen.of(opened, Store.open(store, writable=False)),
            samples_per_shard=samples_per_shard,
            seed=seed,
            caption=caption,
            copies=copies,
            memory_bytes=int(memory * 2**30),
            threads=workers or len(os.sched_getaffinity(0)),
            scratch=scratch,
            on_progress=bars.show,
        )
    if as_json:
        said = {key: value for key, value in asdict(record).items() if key != "tars"}
        sys.stdout.write(strict_json.dumps(said | {"tars": len(record.tars)}) + "\n")
        return
    tars = f"{len(record.tars)} tar{'' if len(record.tars) == 1 else 's'}"
    lines = [f"{record.samples:>15,}  samples in {tars}"]
    lines += [f"{record.repeated:>15,}  of them further copies"] if record.repeated else []
    lines += [f"{record.not_drawn:>15,}  rows of which no copy was drawn"] if record.not_drawn else []
    lines += [f"{record.missing:>15,}  rows without a picture in {MISSING}: download them"] if record.missing else []
    lines += [f"{record.removed:>15,}  rows removed from the release"] if record.removed else []
    sys.stdout.write("\n".join([*lines, ""]))
