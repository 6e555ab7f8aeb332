"""`dataset dedup`: near-duplicates of a release, as a side table, and what is made of it.

`dataset dedup RELEASE` is short for `dataset dedup find RELEASE`.
"""

import json
import os
import sys
from typing import Annotated, Any

import typer

from dataset import strict_json
from dataset.command_help import PlainGroup
from dataset.commands.against import against_command
from dataset.commands.dedup_report import dedup_report_command
from dataset.commands.explain import explain_command
from dataset.commands.label import label_command
from dataset.commands.options import StoreOption, needs_extra
from dataset.commands.plant import plant_command
from dataset.commands.progress import PhaseBars
from dataset.commands.prompts import prompts_command
from dataset.commands.releases import ReleaseArgument, open_named_release

FIND = "find"


class _FindGroup(PlainGroup):
    """A group in which `find` may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `find` unless a command or the group's own help is asked for."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [FIND, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


dedup_app = typer.Typer(
    cls=_FindGroup, no_args_is_help=True, help="Find near-duplicates of a release; `find` may be left out."
)
dedup_app.command("explain")(explain_command)
dedup_app.command("label")(label_command)
dedup_app.command("plant")(plant_command)
dedup_app.command("report")(dedup_report_command)
dedup_app.command("against")(against_command)
dedup_app.command("prompts")(prompts_command)


@dedup_app.command(FIND)
def dedup_command(
    release: ReleaseArgument,
    model: Annotated[str, typer.Option(help="Folder below embeddings/, as `dataset embeddings` wrote it.")],
    store: StoreOption,
    at: Annotated[float, typer.Option(help="Minimum cosine of a member to its representative.")] = 0.94,
    careful: Annotated[
        bool, typer.Option("--careful", help="Compare more rows, so that fewer near-duplicates are missed.")
    ] = False,
    with_pdq: Annotated[
        bool, typer.Option("--with-pdq", help="Also accept a lower cosine, if the pictures' PDQ hashes agree.")
    ] = False,
    pdq_from: Annotated[float, typer.Option(help="Minimum cosine with --with-pdq.")] = 0.90,
    quality: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            show_default="safe,watermark,size,…",
            help="Order by which a group's representative is chosen.",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Processes.")] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.1, show_default="no limit", help="GiB for each process.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start again with the first batch.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Group near-duplicates of a release as the side table duplicates.

    An interrupted call continues when it is repeated. A new batch leaves the groups of earlier ones as they are.
    """
    with needs_extra("release"):
        from dataset.dedup.options import Options
        from dataset.dedup.quality import DEFAULT_ORDER
        from dataset.dedup.run import search
        from dataset.publish.record import refresh_card
    order = tuple(quality.split(",")) if quality else DEFAULT_ORDER
    options = Options(model=model, at=at, careful=careful, with_pdq=with_pdq, pdq_from=pdq_from, quality=order)
    opened = open_named_release(release, store)
    with PhaseBars() as bars:
        report = search(
            opened,
            options,
            processes=workers or len(os.sched_getaffinity(0)),
            memory_bytes=int(memory * 2**30) if memory else None,
            restart=restart,
            on_progress=bars.show,
        )
    refresh_card(opened)
    found = json.loads(report)
    sys.stdout.write(strict_json.dumps(found) + "\n" if as_json else _summary(found))


def _summary(report: dict[str, Any]) -> str:
    rows, kept = report["rows"], report["representatives"]
    lines = [f"{rows:>15,}  rows of {report['release']} {report['version']} with an embedding"]
    lines += [f"{count:>15,}  members: {kind}" for kind, count in report["members"].items()]
    lines.append(f"{kept:>15,}  representatives, {kept / max(1, rows):.1%}")
    checks = report["checks"]
    lines.append(
        f"{checks['with_another_at_threshold']:>15,}  of {checks['representatives_sampled']:,} sampled have another at "
        "the threshold"
    )
    return "\n".join([*lines, ""])
