"""`dataset dedup prompts`: captions of the most duplicated pictures of a release."""

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release


def prompts_command(
    release: ReleaseArgument,
    store: StoreOption,
    top: Annotated[int, typer.Option(min=1, help="Groups.")] = 1_000,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one a core", help="Threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a prompt.")] = False,
) -> None:
    """Print the best caption of each of the largest groups, the largest first, as prompts for a generative model.

    A model repeats pictures that it was shown often.
    """
    with needs_extra("release"):
        from dataset.dedup.prompts import most_duplicated
    opened = open_named_release(release, store, writable=False)
    with PhaseBars() as bars:
        found = most_duplicated(opened, top, threads=workers or len(os.sched_getaffinity(0)), on_progress=bars.show)
    for one in found:
        sys.stdout.write((strict_json.dumps(asdict(one), ensure_ascii=False) if as_json else one.prompt) + "\n")
