"""`dataset tags`, `dataset captions`, `dataset similarity`: side tables of a release."""

import os
import sys
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.formats.releases import Release
from dataset.formats.side_tables import SideTableError
from dataset.publish.record import refresh_card
from dataset.side_tables.copies import write_copy
from dataset.side_tables.join import join_similarity, join_tables
from dataset.side_tables.rows import ReleaseRows
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.side_tables.write import Written
from dataset.stats.units import SCORES
from dataset.store.store import Store

tags_app = typer.Typer(no_args_is_help=True, help="Add tags to a release's rows, and export tags.")
captions_app = typer.Typer(no_args_is_help=True, help="Add captions to a release's rows.")

TablesArgument = Annotated[str, typer.Argument(help="Parquet file, or a folder or URI of them.")]
OnOption = Annotated[JoinOn, typer.Option(help="The column that identifies the row.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Threads.")]
MemoryOption = Annotated[float, typer.Option(min=0.05, help="GiB for the rows that are joined at a time.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
JoinedOption = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Also write the data files with these columns to this folder.")
]


@tags_app.command("join")
def tags_join(
    release: ReleaseArgument,
    tables: TablesArgument,
    store: StoreOption,
    on: OnOption = JoinOn.HASH,
    name: Annotated[str, typer.Option("--as", help="Name of the side table.")] = "tags",
    columns: Annotated[str | None, typer.Option(metavar="A,B", show_default="all", help="Columns to add.")] = None,
    joined: JoinedOption = None,
    workers: WorkersOption = None,
    memory: MemoryOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Add columns to a release as a side table, by LAION's hash or by id; a table of this name is replaced."""
    opened = open_named_release(release, store)
    source = TableSource.open(tables, on, columns.split(",") if columns else None)
    _join(opened, name, source, tables, joined, workers, memory, as_json=as_json)


@tags_app.command("export")
def tags_export(
    release: ReleaseArgument,
    out: Annotated[str, typer.Option(help="Folder or URI to write in.")],
    store: StoreOption,
    columns: Annotated[
        str, typer.Option(metavar="A,B", help="Columns to write; TABLE.COLUMN of side tables.")
    ] = "pwatermark,punsafe",
    workers: WorkersOption = None,
) -> None:
    """Write columns of a release together with `hash`, as LAION shares its tags."""
    rows = ReleaseRows.open(open_named_release(release, store, writable=False))
    with PhaseBars() as bars:
        written = write_copy(rows, ["hash", *columns.split(",")], Store.open(out), threads=threads_of(workers),
                             on_progress=bars.show)  # fmt: skip
    sys.stdout.write(f"{written:>15,}  rows in {out}\n")


@captions_app.command("import")
def captions_import(
    release: ReleaseArgument,
    tables: TablesArgument,
    store: StoreOption,
    on: OnOption = JoinOn.ID,
    column: Annotated[str, typer.Option(help="The column with the captions.")] = "caption",
    name: Annotated[str, typer.Option("--as", help="Name of the side table.")] = "captions",
    joined: JoinedOption = None,
    workers: WorkersOption = None,
    memory: MemoryOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Add captions to a release as a side table; the original TEXT stays."""
    opened = open_named_release(release, store)
    source = TableSource.open(tables, on, [column])
    _join(opened, name, source, tables, joined, workers, memory, as_json=as_json)


def similarity_command(
    release: ReleaseArgument,
    model: Annotated[str, typer.Option(help="Folder below embeddings/, as `dataset embeddings` wrote it.")],
    store: StoreOption,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the similarity of picture and caption by another model as the side table similarity_MODEL."""
    with PhaseBars() as bars:
        written = join_similarity(
            open_named_release(release, store), model, threads=threads_of(workers), on_progress=bars.show
        )
    sys.stdout.write(_summary(written, as_json=as_json))


def _join(
    release: Release,
    name: str,
    source: TableSource,
    said: str,
    joined: str | None,
    workers: int | None,
    memory: float,
    *,
    as_json: bool,
) -> None:
    threads = threads_of(workers)
    target = Store.open(joined) if joined else None
    if target is not None and target.list():
        raise SideTableError(f"{joined} is not empty: name another folder for --joined.")
    with PhaseBars() as bars:
        written = join_tables(release, name, source, said=said.rstrip("/").rpartition("/")[2], threads=threads,
                              memory_bytes=int(memory * 2**30), on_progress=bars.show)  # fmt: skip
        if target is not None:
            rows = ReleaseRows.open(release)
            own = rows.data_schema.names
            write_copy(rows, [*own, *(f"{name}.{column}" for column in written.table.columns)], target,
                       threads=threads, on_progress=bars.show)  # fmt: skip
    if not set(SCORES).isdisjoint(written.table.columns):
        refresh_card(release)
    sys.stdout.write(_summary(written, as_json=as_json))


def threads_of(workers: int | None) -> int:
    """Return the number of threads that an option asks for."""
    return workers or len(os.sched_getaffinity(0))


def _summary(written: Written, *, as_json: bool) -> str:
    table = written.table
    if as_json:
        said = {"table": table.name, "columns": table.columns, "rows": table.rows, "left_out": written.left_out}
        return strict_json.dumps(said) + "\n"
    lines = [f"{table.rows:>15,}  rows in the side table {table.name}: {', '.join(table.columns)}"]
    lines += [f"{rows:>15,}  rows left out: {reason}" for reason, rows in written.left_out.items()]
    return "\n".join([*lines, ""])
