"""`dataset publish`: a release, or a further batch of one, from the parts of crawls."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dataset import strict_json
from dataset.card.details import read_details
from dataset.commands.options import StoreOption
from dataset.commands.progress import PhaseBars
from dataset.formats.releases import ReleaseRecord, release_folder
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request, most_workers
from dataset.publish.predicates import parse_variant
from dataset.publish.publish import Phase, publish
from dataset.publish.uniqueness import UniqueBy
from dataset.store.store import Store, without_secrets

_UNITS = {
    Phase.RUNS: "sorting parts",
    Phase.EARLIER: "earlier rows",
    Phase.UNIQUE: "unique rows",
    Phase.RANGES: "counting",
    Phase.FILES: "writing",
}


def publish_command(
    name: Annotated[str, typer.Argument(help="Name of the release: releases/NAME in the store.")],
    inputs: Annotated[list[str], typer.Option("--input", metavar="RUN|URI#RUN", help="A crawl. Repeatable.")],
    store: StoreOption,
    unique: Annotated[
        list[UniqueBy] | None, typer.Option(help="Also keep only the best row of each URL or picture. Repeatable.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PREDICATE", help="Also publish the rows of e.g. 'punsafe < 0.45'. Repeatable."),
    ] = None,
    drop_contacts: Annotated[
        bool | None, typer.Option("--drop-contacts", help="Drop captions with an e-mail address or phone number.")
    ] = None,
    mixed: Annotated[
        bool | None, typer.Option("--mixed", help="Allow crawls with different models, tags or columns.")
    ] = None,
    rows_per_file: Annotated[
        int | None, typer.Option(min=1, show_default="1000000", help="Maximum number of rows per file.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="TOML with the card's title, license, contact, gate and others.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(show_default="today's date", help="Name of the batch, and of its folder.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, show_default="one per core", help="Processes; fewer if the memory is not enough."),
    ] = None,
    memory: Annotated[float, typer.Option(min=0.45, help="GiB for all processes together.")] = 1.0,
    scratch: Annotated[
        str | None,
        typer.Option(show_default="in the store", help="Folder or URI for working files: twice the parts' bytes."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Delete the files of an unfinished call first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish crawls as a release, or add a batch to a release.

    The rows of a release are sorted and unique. An interrupted call continues
    when it is repeated, also on another machine.
    """
    target = Store.open(store)
    request = Request(
        name=name,
        inputs=[InputName.parse(text, target.uri) for text in inputs],
        unique=tuple(sorted({one.value for one in unique})) if unique else None,
        variants=dict(map(parse_variant, variant)) if variant else None,
        drop_contacts=drop_contacts,
        mixed=mixed,
        rows_per_file=rows_per_file,
        batch=batch,
        card=read_details(card) if card else None,
    )
    with PhaseBars() as bars:
        record = publish(
            target,
            request,
            scratch=Store.open(scratch) if scratch else None,
            memory_bytes=int(memory * 2**30),
            workers=_workers(workers, memory),
            restart=restart,
            on_progress=lambda phase, done, total: bars.show(_UNITS[phase], done, total),
        )
    place = f"{without_secrets(target.uri).rstrip('/')}/{release_folder(record.name)}"
    sys.stdout.write(_summary(record, place, as_json=as_json))


def _workers(asked: int | None, memory: float) -> int:
    """Return how many processes share the memory: one per core, if the memory is enough."""
    fitting = most_workers(int(memory * 2**30))
    if (asked or 1) > fitting:
        raise typer.BadParameter(
            f"--memory {memory} is enough for {fitting} workers: give 0.35 GiB for each worker, and 0.1 in addition."
        )
    return asked or min(len(os.sched_getaffinity(0)), fitting)


def _summary(record: ReleaseRecord, place: str, *, as_json: bool) -> str:
    batch = record.batches[-1]
    added = {subset: rows.rows for subset, rows in batch.subsets.items()}
    said = {
        "release": record.name,
        "folder": place,
        "version": record.version,
        "batch": batch.name,
        "added": added,
        "rows": {subset: rows for subset, rows in record.rows.items() if rows},
        "dropped": {reason: n for reason, n in batch.dropped.items() if n},
        "contacts": batch.contacts,
    }
    if as_json:
        return strict_json.dumps(said) + "\n"
    lines = [f"{record.name} {record.version}, batch {batch.name}"]
    lines += [f"{rows:>15,}  added to {subset}" for subset, rows in added.items()]
    lines += [f"{rows:>15,}  dropped: {reason}" for reason, rows in batch.dropped.items() if rows]
    lines.append(f"{sum(record.rows.values()):>15,}  rows in total")
    return "\n".join([*lines, f"the release is in {place}", ""])
