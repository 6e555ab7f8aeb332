"""The commands for lists of pictures that must not be kept: hash-lists add, list, remove. Workers load changes before
their next job.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from psycopg.errors import CheckViolation, UniqueViolation
from psycopg.types.json import Jsonb
from rich.table import Table
from rich.text import Text

from tracker.accounts.changes import record
from tracker.admin.console import Json, Yes, agree, app, open_tracker, show, tell
from tracker.admin.listing import text_table
from tracker.database.database import Row, query, translated
from tracker.errors import TrackerError
from tracker.settings import Settings
from tracker.storage.hash_lists import read_list

WRITE = "hash-lists write"
SELECT = "SELECT name, reason, hashes, path, sha256, added_at FROM tracker.hash_list ORDER BY name"

hash_lists = typer.Typer(no_args_is_help=True, help="Lists of hashes of pictures that no worker may keep.")
app.add_typer(hash_lists, name="hash-lists")


class Kind(StrEnum):
    """The two kinds of hashes with 64 hexadecimal digits."""

    SHA256 = "sha256"
    PDQ = "pdq"


@hash_lists.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="Text, one hash a line; csv, tsv, parquet: columns sha256, md5, pdq.")],
    reason: Annotated[str, typer.Option(help="Whose list it is, and why it is used.")],
    name: Annotated[str | None, typer.Option(help="Name of the list; default: the file's name.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Kind of the hashes with 64 digits in a text file.")] = None,
    as_json: Json = False,
) -> None:
    """Add a list; pictures that match it are not kept.

    Their links end as blocked.
    """
    name = name or file.stem
    settings = Settings.from_environment()
    with open_tracker() as connection:
        listed = read_list(file, kind.value if kind else None)
        values = {"name": name, "reason": reason, "path": listed.path, "sha256": listed.sha256}
        row = values | {"hashes": Jsonb(listed.hashes)}
        with _refused_by_name(name), connection.transaction():
            with connection.transaction(force_rollback=True):
                # refuses an invalid or taken name before anything is written
                connection.execute(query("insert_hash_list"), row)
            # The file's path is logged first, so that the sweep knows the file if this process dies before the list is
            # in force.
            record(connection, WRITE, listed.path, before=None, after={"list": name})
        listed.write(settings.store)
        with _refused_by_name(name), connection.transaction():
            connection.execute(query("insert_hash_list"), row)
            record(connection, "hash-lists add", name, before=None, after=values | {"hashes": listed.hashes})
    counts = ", ".join(f"{n:,} {kind}" for kind, n in listed.hashes.items() if n)
    tell(
        {"name": name, "hashes": listed.hashes},
        as_json,
        f"list {name}: {counts}; workers use it from their next job on",
    )


@hash_lists.command("list")
def list_all(as_json: Json = False) -> None:
    """Show the lists in force, without their hashes."""
    with open_tracker() as connection, translated():
        rows = connection.execute(SELECT).fetchall()
    show({"lists": rows}, as_json, lambda: _render(rows))


@hash_lists.command("remove")
def remove(name: Annotated[str, typer.Argument()], yes: Yes = False, as_json: Json = False) -> None:
    """Stop using a list.

    Its file stays, for workers that are loading it, until `tracker sweep` deletes it.
    """
    with open_tracker() as connection, translated():
        found = [row for row in connection.execute(SELECT).fetchall() if row["name"] == name]
        if not found:
            raise TrackerError(f"there is no list {name}: `tracker hash-lists list` shows them")
        agree({"lists": found}, "Remove this list?", yes=yes, as_json=as_json, text=lambda: _render(found))
        with connection.transaction():
            connection.execute("DELETE FROM tracker.hash_list WHERE name = %s", (name,))
            before = {key: found[0][key] for key in ("name", "reason", "path", "sha256", "hashes")}
            record(connection, "hash-lists remove", name, before=before, after=None)
    tell({"name": name, "changed": True}, as_json, f"list {name} is no longer in force")


@contextmanager
def _refused_by_name(name: str) -> Iterator[None]:
    """Turn the database's errors about a list's name into a sentence."""
    try:
        with translated():
            yield
    except TrackerError as error:
        if isinstance(error.__cause__, UniqueViolation):
            raise TrackerError(f"there is a list {name} already: remove it first, or give another --name") from error
        if isinstance(error.__cause__, CheckViolation):
            raise TrackerError(f"'{name}' cannot be a list's name: use letters, digits, '.', '_', '-'") from error
        raise


def _render(rows: Sequence[Row]) -> Table:
    table = text_table("list", "sha256", "md5", "sha1", "pdq", "links", "since", "reason")
    for row in rows:
        hashes = row["hashes"]
        links = sum(hashes.get(kind, 0) for kind in ("url", "pair", "host"))
        counts = (f"{n:,}" for n in (*(hashes.get(kind, 0) for kind in ("sha256", "md5", "sha1", "pdq")), links))
        table.add_row(Text(row["name"]), *counts, f"{row['added_at']:%Y-%m-%d}", Text(row["reason"]))
    return table
