"""`dataset select`: a smaller list from a release."""

import os
import sys
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.select.duplicates import without_duplicates
from dataset.select.errors import SelectError
from dataset.select.presets import apply_presets
from dataset.select.select import Request, Selected, Selection
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store
from dataset.takedown.screen import Screen


def select_command(
    release: ReleaseArgument,
    store: StoreOption,
    where: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help="Such as \"WIDTH >= 512 AND LANGUAGE = 'de'\".")
    ] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="high-resolution, aesthetic, safe, laion-art-like or datacomp-like. Repeatable."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URI for the selection; it must be empty.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Rows to draw at random.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all random choices: equal seeds give equal rows.")] = 0,
    max_per_host: Annotated[int | None, typer.Option(min=1, help="Rows of a host, at most.")] = None,
    balance: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Divide --sample equally among the values of this column.")
    ] = None,
    top_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of rows with the highest similarity to keep.")
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Only representatives of near-duplicates.")
    ] = False,
    near: Annotated[str | None, typer.Option(metavar="TEXT|PICTURE", help="Rows near this, by the index.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Print how many rows there would be; write nothing.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print what would be read; read nothing.")] = False,
    rows_per_file: Annotated[int, typer.Option(min=1, help="Rows of a file.")] = 2_500_000,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one a core", help="Threads.")] = None,
    memory: Annotated[float, typer.Option(min=0.1, help="GiB for --max-per-host.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the rows of a release for which an expression is true, with their ids, as a link list of parquet files.

    The expression may name all columns of data/ and extended/, `subset`, and TABLE.COLUMN of side tables.
    """
    _refuse_missing(near=near)
    if not (where or preset or sample or max_per_host or top_share or drop_duplicates):
        raise typer.BadParameter("give --where, --preset, --sample, --max-per-host, --top-share or --drop-duplicates")
    if out is None and not (count or explain):
        raise typer.BadParameter("give --out, or --count or --explain to look first")
    condition, share = apply_presets(preset or [], where, top_share)
    opened = open_named_release(release, store, writable=False)
    rows = ReleaseRows.open(opened)
    if drop_duplicates:
        condition = without_duplicates(rows, condition)
    request = Request(
        where=condition,
        presets=tuple(preset or ()),
        sample=sample,
        seed=seed,
        max_per_host=max_per_host,
        balance=balance,
        top_share=share,
        rows_per_file=rows_per_file,
    )
    threads = workers or len(os.sched_getaffinity(0))
    screen = Screen.of(opened, Store.open(store, writable=False))
    selection = Selection(rows, request, screen=screen, threads=threads, memory_bytes=int(memory * 2**30))
    if explain:
        said = _explained(rows, selection)
        lines = [f"{name:>8}  {value if isinstance(value, str) else _listed(value)}" for name, value in said.items()]
    elif count:
        with PhaseBars() as bars:
            found = selection.count(bars.show)
        said = {"matched": found.matched.total(), "rows": found.kept.total(), "subsets": dict(found.kept)}
        lines = _counted(found)
    else:
        assert out is not None
        with PhaseBars() as bars:
            record = selection.write(Store.open(out), bars.show)
        said = {"out": out, "matched": record.matched, "rows": record.rows, "subsets": record.subsets}
        files = f"{len(record.files)} file{'' if len(record.files) == 1 else 's'}"
        lines = [f"{record.rows:>15,}  rows of {record.release} {record.version} in {files}"]
        lines.append(f"img2dataset --url_list {out} --input_format parquet --url_col URL --caption_col TEXT")
    sys.stdout.write(strict_json.dumps(said) + "\n" if as_json else "\n".join([*lines, ""]))


def _refuse_missing(*, near: str | None) -> None:
    if near is not None:
        raise SelectError(
            "--near needs a kNN index of the release, which this version of Shoal cannot build yet: leave it out."
        )


def _explained(rows: ReleaseRows, selection: Selection) -> dict[str, object]:
    record = rows.release.record
    return {
        "release": f"{record.name} {record.version}",
        "where": selection.rule.sql,
        "columns": list(selection.rule.columns),
        "tables": sorted({name.partition(".")[0] for name in selection.rule.columns if "." in name}),
        "rows": {subset: count for subset, count in record.rows.items() if count},
    }


def _listed(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} of {name}" for name, count in value.items())
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _counted(found: Selected) -> list[str]:
    lines = [f"{rows:>15,}  of {subset}" for subset, rows in found.kept.items() if rows]
    return [*lines, f"{found.kept.total():>15,}  rows in all, of {found.matched.total():,} that match"]
