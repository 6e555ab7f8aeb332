"""`dataset select`: a smaller list from a release."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.index import Modality, ModelOption, find_index, only_model
from dataset.commands.options import StoreOption, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.commands.search import embed_query
from dataset.formats.index_files import index_path
from dataset.formats.masks import read_masked_ids
from dataset.formats.selections import NearQuery
from dataset.select.duplicates import without_duplicates
from dataset.select.near import RANK, RowsNear, find_near
from dataset.select.presets import apply_presets
from dataset.select.select import Request, Selected, Selection
from dataset.side_tables.rows import ReleaseRows
from dataset.store.local_paths import is_file
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
    sample: Annotated[int | None, typer.Option(min=1, help="Number of rows to choose at random.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices: equal seeds give equal rows.")] = 0,
    max_per_host: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows per host.")] = None,
    balance: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Divide --sample equally among the values of this column.")
    ] = None,
    top_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of rows with the highest similarity to keep.")
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Of near-duplicates keep only the representatives.")
    ] = False,
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="Leave out the rows of this mask of `dataset dedup against`. Repeatable."),
    ] = None,
    near: Annotated[
        str | None, typer.Option(metavar="TEXT|PICTURE", help="Rows near a text or a picture's file, by the index.")
    ] = None,
    nearest: Annotated[int | None, typer.Option(min=1, help="With --near: the number of nearest rows.")] = None,
    at_least: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="With --near: the minimum similarity.")
    ] = None,
    model: ModelOption = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights for --near, if the release does not name its model's.")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print how many rows there would be; write nothing.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print which data would be read, and read nothing.")
    ] = False,
    rows_per_file: Annotated[int, typer.Option(min=1, help="Rows per file.")] = 2_500_000,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Threads.")] = None,
    memory: Annotated[float, typer.Option(min=0.1, help="GiB for --max-per-host.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the rows of a release for which an expression is true, with their ids, as a link list of parquet files.

    The expression may name all columns of data/ and extended/, `subset`, and TABLE.COLUMN of side tables.
    """
    if not (where or preset or sample or max_per_host or top_share or drop_duplicates or near or mask):
        raise typer.BadParameter(
            "give --where, --preset, --near, --sample, --max-per-host, --top-share, --drop-duplicates or --mask"
        )
    if (near is None) != (nearest is None and at_least is None):
        raise typer.BadParameter("give --near together with --nearest N, --at-least X, or both")
    if out is None and not (count or explain):
        raise typer.BadParameter("give --out, or --count or --explain to look first")
    condition, share = apply_presets(preset or [], where, top_share)
    opened = open_named_release(release, store, writable=False)
    rows = ReleaseRows.open(opened)
    if drop_duplicates:
        condition = without_duplicates(rows, condition)
    masked, masks = read_masked_ids(opened, [Store.open(one, writable=False) for one in mask or ()])
    query = None
    if near is not None:
        rows, query = _near(rows, near, release, store, model, pretrained, nearest, at_least)
        condition = f"({condition}\n) AND {RANK} IS NOT NULL"
    request = Request(
        where=condition,
        near=query,
        masks=masks,
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
    selection = Selection(
        rows, request, screen=screen, masked=masked if mask else None, threads=threads, memory_bytes=int(memory * 2**30)
    )
    if explain:
        said = _explained(rows, selection)
        lines = [f"{name:>8}  {value if isinstance(value, str) else _listed(value)}" for name, value in said.items()]
    elif count:
        with PhaseBars() as bars:
            found = selection.count(bars.show)
        said = {"matched": found.matched.total(), "rows": found.kept.total(), "subsets": dict(found.kept)}
        lines = _counted(found)
        reason = selection.why_none() if not found.matched.total() else None
        lines += [f"{reason[0].upper()}{reason[1:]}."] if reason else []
    else:
        assert out is not None
        with PhaseBars() as bars:
            record = selection.write(Store.open(out), bars.show)
        said = {"out": out, "matched": record.matched, "rows": record.rows, "subsets": record.subsets}
        files = f"{len(record.files)} file{'' if len(record.files) == 1 else 's'}"
        lines = [f"{record.rows:>15,}  rows of {record.release} {record.version} in {files}"]
        lines.append(f"img2dataset --url_list {out} --input_format parquet --url_col URL --caption_col TEXT")
    sys.stdout.write(strict_json.dumps(said) + "\n" if as_json else "\n".join([*lines, ""]))


def _near(
    rows: ReleaseRows,
    near: str,
    release: str,
    store: str,
    model: str | None,
    pretrained: str | None,
    nearest: int | None,
    at_least: float | None,
) -> tuple[RowsNear, NearQuery]:
    """Search the index for the rows near a text or a picture."""
    with needs_extra("index"):
        from dataset.index.lookup import open_index
    index = open_index(find_index(release, store, model, Modality.IMAGE))
    record = index.record
    picture = Path(near) if is_file(Path(near)) else None
    text = None if picture else near
    vector = embed_query(record, release, store, text, picture, pretrained)
    found = find_near(index, vector, nearest=nearest, at_least=at_least)
    return RowsNear(rows.release, rows.tables, found), NearQuery(
        text=text,
        picture=hashlib.sha256(picture.read_bytes()).hexdigest() if picture else None,
        nearest=nearest,
        at_least=at_least,
        index=index_path(model or only_model(rows.release, "index"), Modality.IMAGE),
        version=record.version,
        generation=record.generation,
        model=record.model.name,
        model_sha256=record.model.sha256,
        found=len(found.ids),
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
    return [*lines, f"{found.kept.total():>15,}  rows in total, of {found.matched.total():,} that match"]
