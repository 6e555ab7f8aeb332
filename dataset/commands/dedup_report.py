"""`dataset dedup report`: one HTML page about the near-duplicates of a release."""

import os
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, messages, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release


def dedup_report_command(
    release: ReleaseArgument,
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("near-duplicates.html"),
    workers: Annotated[int | None, typer.Option(min=1, show_default="one a core", help="Threads.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML page: funnel, cosines, largest groups with pictures, recall, hosts, batches, checks.

    Only pictures that are still kept are shown.
    """
    with needs_extra("release"):
        from dataset.dedup.errors import DedupError
        from dataset.dedup.figures import gather
        from dataset.dedup.pictures import kept_thumbnails
        from dataset.dedup.report_page import render
    from dataset.report.html import data_url

    opened = open_named_release(release, store, writable=False)
    with PhaseBars() as bars:
        figures = gather(opened, threads=workers or len(os.sched_getaffinity(0)), on_progress=bars.show)
    shown = {one for group in figures.largest for one in (group.representative, *(each.id for each in group.members))}
    kept = kept_thumbnails(opened, np.array(sorted(shown), np.int64))
    page = render(figures, {one: data_url(jpeg) for one, jpeg in kept.items()})
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DedupError(f"Cannot write {out} ({error.strerror}): name another file.") from error
    if as_json:
        messages.print(str(out), markup=False, highlight=False)
        sys.stdout.write(strict_json.dumps(figures.to_json(), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{out}\n")
