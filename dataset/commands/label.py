"""`dataset dedup label`: people's answers on pairs, and the threshold that they support."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, messages, needs_extra
from dataset.commands.releases import ReleaseArgument, open_named_release

_PIXELS = 512
"""Shorter side of the pictures on the page, at most."""


def label_command(
    release: ReleaseArgument,
    store: StoreOption,
    answers: Annotated[Path, typer.Option(help="File of answers; an existing one is continued.")],
    per_stratum: Annotated[int, typer.Option(min=1, help="Pairs for each bin of the cosine and class of sizes.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    precision: Annotated[float, typer.Option(min=0, max=1, help="Wanted precision of the threshold.")] = 0.98,
    fetcher: Annotated[
        Path | None,
        typer.Option(help="Socket of `worker fetcher`, to fetch pictures that are no longer kept."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="TCP port; 0 picks a free one.")] = 0,
    table: Annotated[bool, typer.Option("--table", help="Print the precision so far, and serve no page.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show pairs of near-duplicates on a page of this machine until Ctrl-C, then print precision by threshold.

    Pairs are shown whose two pictures are still kept, or arrive unchanged with --fetcher.
    """
    with needs_extra("release"):
        from dataset.dedup.explain import read_options
        from dataset.dedup.pictures import kept_thumbnails
        from dataset.dedup.vectors import Vectors
        from dataset.label.answers import Answers
        from dataset.label.journal import LabelError
        from dataset.label.pairs import draw_pairs
        from dataset.label.precision import measure, tally
        from dataset.label.refetch import refetch
        from dataset.label.server import make_app
        from dataset.search.server import http_server, listen
    from dataset.side_tables.rows import ReleaseRows

    opened = open_named_release(release, store, writable=False)
    options = read_options(opened)
    model = Vectors(opened, options.model).model
    rows = ReleaseRows.open(opened)
    drawn = draw_pairs(rows, per_stratum, seed, threads=len(os.sched_getaffinity(0)))
    described = {
        "release": opened.record.name,
        "version": opened.record.version,
        "model": model.sha256 if model else "",
        "threshold": options.at,
        "seed": seed,
        "per_stratum": per_stratum,
        "pairs": [[*stratum, count] for stratum, count in drawn.counts.items()],
        "drawn": [[pair.member, pair.representative, *pair.stratum] for pair in drawn.pairs],
    }
    given = Answers(answers, described)
    try:
        if not table:
            ids = {one for pair in drawn.pairs for one in (pair.member, pair.representative)}
            jpegs = kept_thumbnails(opened, np.array(sorted(ids), np.int64), _PIXELS)
            if fetcher is not None:
                fetched, counted = refetch(rows, sorted(ids - jpegs.keys()), options.quality, fetcher, _PIXELS)
                jpegs |= fetched
                given.add_refetched(counted)
                messages.print(
                    f"{counted.same:,} of {counted.asked:,} pictures were fetched again; {counted.answered:,} URLs "
                    "answered",
                    highlight=False,
                )
            shown = [
                (pair.member, pair.representative)
                for pair in drawn.pairs
                if pair.member in jpegs and pair.representative in jpegs
            ]
            if not shown:
                raise LabelError(
                    "No pair has both pictures: give --fetcher, label another release by the same model, or see "
                    "dataset dedup report without answers."
                )
            messages.print(f"{len(shown):,} of {len(drawn.pairs):,} drawn pairs have both pictures", highlight=False)
            listening = listen("127.0.0.1", port)
            messages.print(f"http://127.0.0.1:{listening.getsockname()[1]}/", highlight=False)
            with suppress(KeyboardInterrupt), listening:
                asyncio.run(http_server(make_app(shown, jpegs, given)).serve(sockets=[listening]))
    finally:
        given.close()
    strata = {pair.member: pair.stratum for pair in drawn.pairs}
    found = measure(drawn.counts, tally(strata, given.given), options.at, precision)
    if as_json:
        sys.stdout.write(strict_json.dumps(found.to_json()) + "\n")
        return
    lines = ["     at        pairs  answers  wrong  precision (95 %)"]
    lines += [
        f"{one.at:7.3f} {one.pairs:12,} {one.answers:8,} {one.wrong:6,}  {one.low:.3f} to {one.high:.3f}"
        for one in found.table
    ]
    lines.append(
        f"no threshold is known to have precision {precision:g}: answer more pairs"
        if found.threshold is None
        else f"--at {found.threshold:g} has precision {precision:g} or more"
    )
    sys.stdout.write("\n".join([*lines, ""]))
