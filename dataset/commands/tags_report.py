"""`dataset tags report`: one HTML page about the tags of a release."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, messages, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.commands.side_tables import WorkersOption, threads_of
from dataset.recipe.tags import Tag


def tags_report_command(
    release: ReleaseArgument,
    store: StoreOption,
    tag: Annotated[Tag | None, typer.Option(metavar="TAG", help="punsafe or pwatermark; default: both.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of dataset label --export: precision and recall are measured on them.")
    ] = None,
    positive: Annotated[str | None, typer.Option(metavar="CLASS", help="With --labels: the class of the tag.")] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("tags.html"),
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML page: scores by subset, what each threshold does, and pictures by score.

    Only pictures that are still kept are shown.
    """
    with needs_extra("release"):
        from dataset.dedup.pictures import kept_thumbnails
        from dataset.tagging.errors import TaggingError
        from dataset.tagging.figures import gather, read_test_labels
        from dataset.tagging.report_page import render
    if tag is Tag.AESTHETIC:
        raise TaggingError("aesthetic is no probability: give --tag punsafe or --tag pwatermark.")
    if (labels is None) != (positive is None):
        raise TaggingError("Labels have several classes: give --labels and --positive together.")
    opened = open_named_release(release, store, writable=False)
    known = read_test_labels(labels, positive) if labels and positive else None
    with PhaseBars() as bars:
        tags = [tag.value] if tag else []
        found = gather(opened, tags, labels=known, threads=threads_of(workers), on_progress=bars.show)
    shown = {row.id for one in found for bucket in one.buckets for row in bucket.drawn}
    record = opened.record
    page = render(record.name, record.version, found, kept_thumbnails(opened, np.array(sorted(shown), np.int64)))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise TaggingError(f"Cannot write {out} ({error.strerror}): name another file.") from error
    if not as_json:
        sys.stdout.write(f"{out}\n")
        return
    messages.print(str(out), markup=False, highlight=False)
    said = {"release": record.name, "version": record.version, "tags": [one.to_json() for one in found]}
    sys.stdout.write(strict_json.dumps(said, ensure_ascii=False) + "\n")
