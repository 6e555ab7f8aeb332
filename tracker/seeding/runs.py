"""`tracker seed`: create a run with its recipe, and a job for each WAT file or piece of a link list."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from tracker.accounts.pool import open_leaves
from tracker.database.database import Connection, query, translated
from tracker.errors import TrackerError
from tracker.seeding.link_list import Columns, Piece
from tracker.seeding.names import NAME
from tracker.storage.retention import checked

CRAWL = re.compile(r"CC-MAIN-\d{4}-\d{2}")

SELECT_RUN = "SELECT run_id, recipe, keep_shards FROM tracker.run WHERE name = %s"
PIECES_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Seeded:
    run: str
    wats: int
    new: int


def seed(
    connection: Connection,
    wats: Sequence[str],
    *,
    run: str,
    recipe: dict[str, Any] | None,
    keep_shards: str | None = None,
) -> Seeded:
    """Add WAT files to a run; those that it already has are left out.

    Raises:
        TrackerError: the run exists with another recipe or keeps its shards for another time, or its name is invalid.
    """
    with translated(), connection.transaction():
        run_id = _open_run(connection, run, recipe, keep_shards)
        new = connection.execute(query("insert_wat_jobs"), {"run_id": run_id, "wats": list(wats)}).rowcount
    return Seeded(run, len(wats), new)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """How a link list is read. The language comes from a column, or is detected; without both, rows are nolang."""

    columns: Columns
    detect_language: bool = False
    keep_duplicates: bool = False


def seed_list(
    connection: Connection,
    pieces: Sequence[Piece],
    options: ListOptions,
    *,
    run: str,
    recipe: dict[str, Any],
    keep_shards: str | None = None,
) -> int:
    """Add the pieces of a link list to a run, one ingest job each; return how many are new.

    Raises:
        TrackerError: as `seed`.
    """
    columns = options.columns
    common = {
        "columns": {"url": columns.url, "caption": columns.caption, "language": columns.language},
        "extra": list(columns.extra),
        "detect_language": options.detect_language,
        "keep_duplicates": options.keep_duplicates,
    }
    jobs = [asdict(piece) | common for piece in pieces]
    new = 0
    with translated(), connection.transaction():
        run_id = _open_run(connection, run, recipe, keep_shards)
        for at in range(0, len(jobs), PIECES_AT_ONCE):
            values = {"run_id": run_id, "pieces": Jsonb(jobs[at : at + PIECES_AT_ONCE])}
            new += connection.execute(query("insert_list_jobs"), values).rowcount
    return new


def _open_run(connection: Connection, run: str, recipe: dict[str, Any] | None, keep_shards: str | None) -> int:
    if not NAME.fullmatch(run):
        raise TrackerError(f"'{run}' cannot be a run's name: use letters, digits, '.', '_' and '-'")
    keep = None if keep_shards is None else checked(keep_shards)
    values = {"name": run, "recipe": None if recipe is None else Jsonb(recipe), "keep": keep}
    connection.execute(query("insert_run"), values)
    row = connection.execute(SELECT_RUN, (run,)).fetchone()
    assert row is not None
    _require_agreement(run, recipe, row["recipe"])
    _require_same_time(run, keep, row["keep_shards"])
    open_leaves(connection, row["run_id"])
    return int(row["run_id"])


def run_name(sources: Sequence[str]) -> str:
    """Return the name of the crawl that the sources belong to, or 'crawl'."""
    found = {match.group() for source in sources for match in [CRAWL.search(source)] if match}
    return found.pop() if len(found) == 1 else "crawl"


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the JSON object of a recipe file. Its content is checked by `dataset recipe` and by the workers.

    Raises:
        TrackerError: there is no such file, or it is not a JSON object.
    """
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrackerError(f"the recipe {path} cannot be read: {error}; write one with dataset recipe") from error
    if not isinstance(recipe, dict):
        raise TrackerError(f"the recipe {path} is not a JSON object; write one with dataset recipe")
    return recipe


def _require_agreement(run: str, recipe: dict[str, Any] | None, known: dict[str, Any]) -> None:
    if recipe is not None and not _agrees(recipe, known):
        raise TrackerError(f"run {run} has another recipe, which cannot change: give another --run")


def _require_same_time(run: str, keep: str | None, known: str) -> None:
    if keep not in (None, known):
        raise TrackerError(f"run {run} keeps its shards {known}: change that with tracker keep-shards")


def _agrees(recipe: dict[str, Any], known: dict[str, Any]) -> bool:
    """Return whether a run's recipe is this one, apart from what workers have settled since."""
    return all(_within(value, known.get(key)) for key, value in recipe.items())


def _within(value: object, known: object) -> bool:
    if isinstance(value, dict) and isinstance(known, dict):
        return _agrees(value, known)
    return value is None or value == known
