"""`dataset dedup against`: the rows of a release that are near-duplicates of evaluation sets, or of other releases."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.index import ModelOption, only_model
from dataset.commands.options import JsonOption, StoreOption, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, is_release, open_named_release
from dataset.formats.masks import MaskRecord
from dataset.store.store import Store


def against_command(
    release: ReleaseArgument,
    others: Annotated[
        list[str], typer.Argument(metavar="EVAL...", help="Folders of .npy embeddings, or other releases.")
    ],
    store: StoreOption,
    out: Annotated[str, typer.Option(help="Folder or URI for the mask; it must be empty.")],
    at: Annotated[float, typer.Option(min=0.5, max=1.0, help="Minimum cosine.")] = 0.94,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a mask of the rows that are near-duplicates of rows elsewhere, for dataset select --mask.

    All rows are compared with all others, so none is missed.
    """
    with needs_extra("release"):
        from dataset.dedup.against import FolderSet, OtherSet, ReleaseSet, write_mask
    opened = open_named_release(release, store, writable=False)
    chosen = model or only_model(opened, "embeddings")
    sets: list[OtherSet] = []
    for name in others:
        if is_release(name):
            sets.append(ReleaseSet(open_named_release(name, store, writable=False), chosen))
        else:
            sets.append(FolderSet(Store.open(name, writable=False), Path(name.rstrip("/")).name))
    with PhaseBars() as bars:
        record = write_mask(opened, chosen, sets, at, Store.open(out), bars.show)
    sys.stdout.write(strict_json.dumps(asdict(record), ensure_ascii=False) + "\n" if as_json else _text(record))


def _text(record: MaskRecord) -> str:
    lines = [f"{record.rows:>15,}  rows of {record.release} {record.version} are masked, cosine at least {record.at:g}"]
    for one in record.sets:
        said = "" if one.same_model else "; its model is not known"
        lines.append(
            f"{one.release_rows:>15,}  near to {one.name}, of which {one.near_rows:,} of {one.rows:,} rows are in the "
            f"release{said}"
        )
    names = [one.name for one in record.sets]
    for at, name in enumerate(names):
        lines += [f"{record.overlap[name][other]:>15,}  near to both {name} and {other}" for other in names[at + 1 :]]
    return "\n".join([*lines, ""])
