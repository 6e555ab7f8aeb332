"""Selections: parquet files with unchanged rows of a release, and a record of how they were selected.

    OUT/part-00000.parquet   URL, TEXT … as in `data/`, LANGUAGE and subset in all files, by id; near_rank and
                             near_similarity where rows near a query were selected
    OUT/selection.json       the record, written last

Invariant: rows keep their ids. `tracker seed` and img2dataset take the files as link lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dataset.errors import DatasetError
from dataset.formats.json_records import from_json
from dataset.store.store import Store

FORMAT = 1
RECORD = "selection.json"


class SelectionError(DatasetError):
    """A selection cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionFile:
    """A file by its path in the selection."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NearQuery:
    """A query, and the index that answered it."""

    text: str | None
    picture: str | None
    """The sha256 of the picture's file."""
    nearest: int | None
    at_least: float | None
    index: str
    """The folder of the index in the release."""
    version: str
    """The release's when the index was built or refreshed."""
    generation: int
    model: str
    model_sha256: str
    found: int
    """Rows that are near, before the expression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionRecord:
    """The content of selection.json. `where` is the expression as DuckDB writes it."""

    format: int
    release: str
    version: str
    where: str
    presets: tuple[str, ...]
    sample: int | None
    seed: int
    max_per_host: int | None
    balance: str | None
    top_share: float | None
    near: NearQuery | None
    masks: tuple[str, ...]
    """The sha256 of each mask whose rows were left out."""
    matched: int
    """Rows for which the expression was true."""
    rows: int
    subsets: Mapping[str, int]
    files: tuple[SelectionFile, ...]


def part_path(at: int) -> str:
    """Return the path in the selection of a file of rows."""
    return f"part-{at:05d}.parquet"


def read_selection(store: Store) -> SelectionRecord:
    """Read the record of the selection in this folder.

    Raises: SelectionError when there is none, or it is damaged; StoreError.
    """
    if not store.exists(RECORD):
        raise SelectionError(f"{store.uri} has no {RECORD}: name a folder that dataset select has written.")
    try:
        return from_json(SelectionRecord, store.read(RECORD))
    except ValueError as error:
        raise SelectionError(f"{RECORD} in {store.uri} cannot be read ({error}): select again.") from error
