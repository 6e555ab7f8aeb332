"""`dataset embeddings`: the embeddings of a release, from those of its parts or of a foreign folder."""

import os
import sys
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.formats.release_embeddings import EmbeddingsRecord
from dataset.release_embeddings.consolidate import Request, consolidate


def embeddings_command(
    release: ReleaseArgument,
    model: Annotated[str, typer.Option(help="Its name, or the first 8 or more digits of its checksum.")],
    store: StoreOption,
    batch: Annotated[
        list[str] | None, typer.Option(show_default="all", help="Only this batch of the release. Repeatable.")
    ] = None,
    foreign: Annotated[
        str, typer.Option("--from", help="Folder or URI of embeddings made elsewhere: .npy and parquet.")
    ] = "",
    folder: Annotated[
        str | None, typer.Option("--as", show_default="the model's name", help="Folder below embeddings/.")
    ] = None,
    rows_per_file: Annotated[int, typer.Option(min=1, help="Rows per file.")] = 1_000_000,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Threads.")] = None,
    memory: Annotated[float, typer.Option(min=0.2, help="GiB for the rows that are matched at a time.")] = 2.0,
    restart: Annotated[bool, typer.Option("--restart", help="Start again, even if embeddings exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each batch.")] = False,
) -> None:
    """Gather a model's embeddings of a release into one folder for each batch, by id.

    An interrupted call continues when it is repeated.
    """
    opened = open_named_release(release, store)
    for name in batch or [one.name for one in opened.record.batches]:
        request = Request(model=model, batch=name, foreign=foreign, folder=folder, rows_per_file=rows_per_file)
        with PhaseBars() as bars:
            record = consolidate(
                opened,
                request,
                memory_bytes=int(memory * 2**30),
                threads=workers or len(os.sched_getaffinity(0)),
                restart=restart,
                on_progress=bars.show,
            )
        sys.stdout.write(_summary(record, as_json=as_json))


def _summary(record: EmbeddingsRecord, *, as_json: bool) -> str:
    said = {
        "release": record.release,
        "version": record.version,
        "batch": record.batch,
        "model": record.model.name,
        "sha256": record.model.sha256,
        "dimensions": record.dimensions,
        "rows": record.rows,
        "left_out": record.left_out,
        "missing": record.missing,
    }
    if as_json:
        return strict_json.dumps(said) + "\n"
    lines = [f"{record.release} {record.version}, batch {record.batch}, {record.model.name}"]
    lines.append(f"{record.rows:>15,}  rows of {record.dimensions} dimensions")
    lines += [f"{rows:>15,}  source rows left out: {reason}" for reason, rows in record.left_out.items() if rows]
    lines += [f"{rows:>15,}  rows of {subset} without an embedding" for subset, rows in record.missing.items() if rows]
    return "\n".join([*lines, ""])
