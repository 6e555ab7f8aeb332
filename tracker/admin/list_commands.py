"""The commands for link lists: `tracker seed` given --url-col, and lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tracker.accounts.changes import record
from tracker.admin import listing
from tracker.admin.console import Json, app, open_tracker, show
from tracker.database.database import Row, query, translated
from tracker.errors import TrackerError
from tracker.seeding.link_list import Columns, Listing, read_listing
from tracker.seeding.link_list_files import is_list
from tracker.seeding.runs import ListOptions, read_recipe, seed_list

DEFAULT_RUN = "list"


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line's options for a link list."""

    columns: Columns
    detect_language: bool
    keep_duplicates: bool
    with_filter: bool
    keep_shards: str | None = None


def require_crawl(sources: Sequence[str], options: Mapping[str, object]) -> None:
    """Refuse a link list without --url-col, and options of link lists for WAT files.

    Raises:
        TrackerError: an option is missing; the message names it.
    """
    for source in sources:
        if is_list(source):
            raise TrackerError(f"{source} is a link list: name its column of URLs with --url-col")
    given = [name for name, value in options.items() if value]
    if given:
        raise TrackerError(f"--{given[0]} is an option of link lists: add --url-col")


def seed_lists(sources: Sequence[str], asked: Asked, *, run: str | None, recipe: Path | None, as_json: bool) -> None:
    """Seed link lists into a run; the run has a filter only with --filter.

    Raises:
        TrackerError: a list cannot be read, or the run exists with another recipe.
    """
    if asked.detect_language and asked.columns.language:
        raise TrackerError("a language is either detected or taken from the list: give only one of the two options")
    if asked.keep_shards is not None and not asked.with_filter:
        raise TrackerError(
            "this list is not filtered, so its shards are kept: leave out --keep-shards, or add --filter"
        )
    listing = read_listing(sources, asked.columns)
    name = run or DEFAULT_RUN
    options = ListOptions(asked.columns, asked.detect_language, asked.keep_duplicates)
    rules = _recipe(read_recipe(recipe) if recipe else {}, listing, asked)
    with open_tracker() as connection, translated(), connection.transaction():
        new = seed_list(connection, listing.pieces, options, run=name, recipe=rules, keep_shards=asked.keep_shards)
        counted = sum(piece.rows or 0 for piece in listing.pieces)
        data = {
            "run": name,
            "files": len({piece.list for piece in listing.pieces}),
            "pieces": len(listing.pieces),
            "new": new,
            "rows": counted if all(piece.rows is not None for piece in listing.pieces) else None,
            "extra": dict(listing.extra),
        }
        if new:
            record(connection, "seed", name, before=None, after=data)
    rows = "rows not counted" if data["rows"] is None else f"{counted:,} rows"
    added = f"{_count(new, 'job')} added for {_count(len(listing.pieces), 'piece')}"
    files = _count(len({piece.list for piece in listing.pieces}), "file")
    show(data, as_json, lambda: f"run {name}: {added} of {files}, {rows}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _recipe(rules: dict[str, Any], listing: Listing, asked: Asked) -> dict[str, Any]:
    """Return the recipe of a list's run. The command, not the recipe file, decides whether pairs are scored."""
    chosen = {name: value for name, value in rules.items() if name not in ("filter", "extra", "sha256_column")}
    if not asked.with_filter:
        chosen["filter"] = False
    if (sha256 := asked.columns.sha256) is not None:
        if listing.extra.get(sha256) != "string":
            raise TrackerError(f"column {sha256!r} is {listing.extra.get(sha256)}, not a sha256 as text: name another")
        chosen["sha256_column"] = sha256
    return chosen | ({"extra": dict(listing.extra)} if listing.extra else {})


@app.command("lists")
def lists(
    run: Annotated[str | None, typer.Option(help="Only lists of this run.")] = None, as_json: Json = False
) -> None:
    """Show the rows read and dropped of each link list."""
    with open_tracker() as connection, translated():
        rows = connection.execute(query("lists"), {"run": run}).fetchall()
    show({"lists": rows}, as_json, lambda: _render(rows))


def _render(rows: Sequence[Row]) -> listing.Listing:
    numbers = ("pieces", "read", "rows", "candidates", "duplicates", "mended")
    table = listing.Listing([listing.Column("run"), *(listing.Column(name, right=True) for name in numbers)])
    for row in rows:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted((row["dropped"] or {}).items()) if n)
        note = row["list"] + (f"\ndropped: {reasons}" if reasons else "")
        table.add(row["run"], *(f"{row[name]:,}" for name in numbers), note=note)
    return table
