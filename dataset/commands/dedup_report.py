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
    answers: Annotated[
        Path | None, typer.Option(help="File of answers of dataset dedup label, for the precision.")
    ] = None,
    precision: Annotated[float, typer.Option(min=0, max=1, help="Wanted precision of the threshold.")] = 0.98,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one a core", help="Threads.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML page: funnel, cosines, largest groups with pictures, precision, recall, hosts, batches, checks.

    Only pictures that are still kept are shown. Answers on another release's pairs count if the model is the same;
    without answers, captions and hosts are compared.
    """
    with needs_extra("release"):
        from dataset.dedup.errors import DedupError
        from dataset.dedup.explain import read_options
        from dataset.dedup.figures import gather
        from dataset.dedup.pictures import kept_thumbnails
        from dataset.dedup.report_page import render
        from dataset.label.evidence import from_answers, without_answers
        from dataset.label.report_sections import precision_sections
    from dataset.report.html import data_url

    opened = open_named_release(release, store, writable=False)
    threads = workers or len(os.sched_getaffinity(0))
    with PhaseBars() as bars:
        figures = gather(opened, threads=threads, on_progress=bars.show)
    options = read_options(opened)
    evidence = (
        without_answers(opened, options.quality, threads=threads)
        if answers is None
        else from_answers(opened, options.model, options.at, answers, precision, threads=threads)
    )
    shown = {one for group in figures.largest for one in (group.representative, *(each.id for each in group.members))}
    kept = kept_thumbnails(opened, np.array(sorted(shown), np.int64))
    sections = precision_sections(evidence, opened.record.name)
    page = render(figures, {one: data_url(jpeg) for one, jpeg in kept.items()}, precision=sections)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DedupError(f"Cannot write {out} ({error.strerror}): name another file.") from error
    if as_json:
        said = figures.to_json() | {"precision": evidence.to_json()}
        messages.print(str(out), markup=False, highlight=False)
        sys.stdout.write(strict_json.dumps(said, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(f"{out}\n")
