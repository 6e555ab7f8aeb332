"""`dataset dedup label`: people's answers on pairs, and the threshold that they support."""

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, messages, needs_extra
from dataset.commands.releases import ReleaseArgument, open_named_release


def label_command(
    release: ReleaseArgument,
    store: StoreOption,
    answers: Annotated[Path, typer.Option(help="File of answers; an existing one is continued.")],
    per_stratum: Annotated[int, typer.Option(min=1, help="Pairs for each bin of the cosine and class of sizes.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    precision: Annotated[float, typer.Option(min=0, max=1, help="Wanted precision of the threshold.")] = 0.98,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="TCP port; 0 picks a free one.")] = 0,
    table: Annotated[bool, typer.Option("--table", help="Print the precision so far, and serve no page.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show pairs of near-duplicates on a page of this machine until Ctrl-C, then print precision by threshold.

    Pairs are shown whose two pictures are still kept.
    """
    with needs_extra("release"):
        from dataset.dedup.explain import read_options
        from dataset.dedup.pictures import kept_thumbnails
        from dataset.dedup.vectors import Vectors
        from dataset.label.answers import Answers
        from dataset.label.journal import LabelError
        from dataset.label.pairs import draw_pairs
        from dataset.label.precision import pick, precision_table
        from dataset.label.server import make_app
        from dataset.search.server import http_server, listen
    from dataset.side_tables.rows import ReleaseRows

    opened = open_named_release(release, store, writable=False)
    options = read_options(opened)
    model = Vectors(opened, options.model).model
    drawn = draw_pairs(ReleaseRows.open(opened), per_stratum, seed, threads=len(os.sched_getaffinity(0)))
    described = {
        "release": opened.record.name,
        "version": opened.record.version,
        "model": model.sha256 if model else "",
        "threshold": options.at,
        "seed": seed,
        "per_stratum": per_stratum,
        "pairs": [[*stratum, count] for stratum, count in drawn.counts.items()],
    }
    given = Answers(answers, described)
    try:
        if not table:
            ids = {one for pair in drawn.pairs for one in (pair.member, pair.representative)}
            jpegs = kept_thumbnails(opened, np.array(sorted(ids), np.int64), 512)
            shown = [
                (pair.member, pair.representative)
                for pair in drawn.pairs
                if pair.member in jpegs and pair.representative in jpegs
            ]
            if not shown:
                raise LabelError("No pair has both pictures: label a release whose crawl still keeps its pictures.")
            messages.print(f"{len(shown):,} of {len(drawn.pairs):,} drawn pairs have both pictures", highlight=False)
            listening = listen("127.0.0.1", port)
            messages.print(f"http://127.0.0.1:{listening.getsockname()[1]}/", highlight=False)
            with suppress(KeyboardInterrupt), listening:
                asyncio.run(http_server(make_app(shown, jpegs, given)).serve(sockets=[listening]))
    finally:
        given.close()
    found = precision_table(drawn.counts, drawn.pairs, given.given, options.at)
    chosen = pick(found, precision)
    if as_json:
        said = {"precision": [asdict(one) for one in found], "threshold": chosen}
        sys.stdout.write(strict_json.dumps(said) + "\n")
        return
    lines = ["     at        pairs  answers  wrong  precision (95 %)"]
    lines += [
        f"{one.at:7.3f} {one.pairs:12,} {one.answers:8,} {one.wrong:6,}  {one.low:.3f} to {one.high:.3f}"
        for one in found
    ]
    lines.append(
        f"no threshold is known to have precision {precision:g}: answer more pairs"
        if chosen is None
        else f"--at {chosen:g} has precision {precision:g} or more"
    )
    sys.stdout.write("\n".join([*lines, ""]))
