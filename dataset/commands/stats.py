"""`dataset stats`: the statistics of a release, a run, or any parquet files with LAION's columns."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dataset import strict_json
from dataset.commands.options import StoreOption
from dataset.formats.manifest import MANIFEST, OutputKind, outputs
from dataset.formats.releases import RECORD, open_release
from dataset.report.galleries import read_galleries
from dataset.report.statistics import write_statistics_page
from dataset.stats.domains import Domain, most_frequent_domains
from dataset.stats.duplicates import Duplicates, read_duplicates
from dataset.stats.figures import all_figures
from dataset.stats.funnel import Funnel, gather_funnel
from dataset.stats.gather import Gathered, gather
from dataset.stats.tables import markdown
from dataset.stats.units import PartUnits, StatsError, Unit, units_of_folder, units_of_release
from dataset.store.local_paths import is_file, is_folder
from dataset.store.store import Store


@dataclass(frozen=True, slots=True)
class _Source:
    """The units to count, their store, and the page's title."""

    title: str
    store: Store
    units: Iterable[Unit]
    save: bool = False
    funnel: Funnel | None = None
    """Only for a run, whose page also has galleries."""
    domains: Sequence[Domain] | None = None
    duplicates: Duplicates | None = None


def stats_command(
    store: StoreOption,
    source: Annotated[
        str | None,
        typer.Argument(help="A release's name; or the path or URI of a release, a folder of tables, or one table."),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Without SOURCE: only this run of the store; default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write a page with plots to this file.")] = None,
    save: Annotated[bool, typer.Option(help="Save the counts of a release's files in the release.")] = True,
) -> None:
    """Print the statistics of a release, of a run, or of any parquet files.

    Parquet files need LAION's columns; a run's statistics include its links.
    """
    if source is not None and run is not None:
        raise typer.BadParameter("--run is for a run of the store: leave SOURCE out")
    found = _run_source(store, run) if source is None else _named_source(source, store, save=save)
    figures = all_figures(_gathered(found), found.funnel, found.domains, found.duplicates)
    if html is not None:
        galleries = read_galleries(found.store, run) if found.funnel else {}
        write_statistics_page(html, found.title, figures, found.funnel, galleries)
    if as_json:
        sys.stdout.write(strict_json.dumps({"source": found.title, **figures}) + "\n")
    else:
        sys.stdout.write(markdown(figures))


def _gathered(source: _Source) -> Gathered:
    """Count the source, with a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("counting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    total = len(source.units) if isinstance(source.units, Sequence) else None
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=total)
        return gather(source.store, source.units, save=source.save, on_unit=lambda: progress.advance(task))


def _run_source(uri: str, run: str | None) -> _Source:
    """Return the parts of a run, with the funnel of its links."""
    store = Store.open(uri, writable=False)
    shards = (shard.path for shard in outputs(store, kind=OutputKind.SHARD, run=run))
    parts = ((part.path, part.subset) for part in outputs(store, kind=OutputKind.PART, run=run))
    funnel = gather_funnel(store, shards, parts)
    if not funnel.outcomes and not funnel.verdicts and not funnel.waiting:
        what = f"The run {run} in the store {store.uri}" if run else f"The store {store.uri}"
        raise StatsError(
            f"{what} has no shard and no part to count: let a download worker finish. "
            "Links that the database had before are not downloaded again."
        )
    return _Source(run or store.uri, store, PartUnits(store, run), funnel=funnel)


def _named_source(source: str, store_uri: str, *, save: bool) -> _Source:
    """Return a release or some tables, named in any of the ways that the command takes."""
    path = Path(source)
    if "://" not in source and is_file(path):
        store = Store.open(str(path.parent), writable=False)
        return _Source(path.name, store, list(units_of_folder(store, [path.name])))
    if "://" in source or is_folder(path):
        store = Store.open(source, writable=False)
        if store.exists(RECORD):
            return _release_source(store, "", save=save)
        if store.exists(MANIFEST):
            raise StatsError(f"{source} is the store of a swarm: leave SOURCE out and use --store {source}.")
        return _Source(source, store, list(units_of_folder(store)))
    if "/" in source:
        raise StatsError(f"{source} does not exist: name a release, a folder of parquet tables, or one table.")
    return _release_source(Store.open(store_uri, writable=False), source, save=save)


def _release_source(store: Store, name: str, *, save: bool) -> _Source:
    release = open_release(store, name)
    title = f"{release.record.name} {release.record.version}"
    domains = most_frequent_domains(release)
    duplicates = read_duplicates(release)
    return _Source(title, store, list(units_of_release(release)), save=save, domains=domains, duplicates=duplicates)
