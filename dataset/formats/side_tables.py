"""Side tables of a release: further columns of its rows, by id.

    releases/NAME/side_tables.json                                 the record of all tables; written last
    releases/NAME/{table}/{generation}-v1/{subset}/{batch}/train-…    a file for each data file that has rows in it
    releases/NAME/{table}/{column}-{digest}.md                        the model card of the head that made a column
    releases/NAME/{table}/SHA256SUMS                                  of these files, for `sha256sum --check`

Invariant: a file's ids are those of the data file with the same subset, batch and number, in order; a row without
values may be absent. A table is written completely into a new generation, so a reader sees either the old or the new
one. The data files do not change. A generation's name ends with the release's MAJOR version, and a takedown writes the
files that it changes under its new version (`dataset.formats.versions`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from dataset.errors import DatasetError
from dataset.formats.json_records import from_json, to_json
from dataset.formats.releases import CHECKSUMS, Release, ReleaseFile, checksum_list
from dataset.formats.versions import in_version, versioned

FORMAT = 1
RECORD = "side_tables.json"
TAGS = "tags"
"""The table that heads write."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TAKEN = frozenset(
    {"data", "extended", "variants", "source", "ids", "stats", "embeddings", "index", "history", "rows", "dedup"}
)


class SideTableError(DatasetError):
    """A side table cannot be read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFile:
    """A file by its path in the release; `data` is the path of its data file."""

    path: str
    data: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableHead:
    """The head that computed a column of a table, and what became of the release's rows then."""

    head: str
    """Its name: `store:heads/NAME.safetensors`, or that of a local file."""
    sha256: str
    kind: str
    """What it reads: embedding or picture."""
    reads: str
    """The folder below embeddings/; '' for pictures."""
    rows: int
    """Rows that got a value."""
    left_out: Mapping[str, int]
    """Rows without a value, by reason."""
    card: str
    """Path in the release of its model card."""
    card_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SideTable:
    """A table; `version` is the version of the release for which it was written."""

    name: str
    version: str
    generation: int
    source: str
    """The name of its source."""
    columns: Mapping[str, str]
    """Arrow types by name; `id` comes first in each file."""
    rows: int
    files: tuple[SideFile, ...]
    heads: Mapping[str, TableHead]
    """By column, of those that heads computed."""

    @property
    def checksums(self) -> dict[str, str]:
        """The sha256 of all files by their paths in the release."""
        cards = {head.card: head.card_sha256 for head in self.heads.values()}
        return {file.path: file.sha256 for file in self.files} | cards

    def file_of(self, data: ReleaseFile) -> SideFile | None:
        """Return the file that belongs to a data file; None if the table has no row of it."""
        return next((file for file in self.files if file.data == data.path), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideTables:
    """The content of side_tables.json, by the tables' names."""

    format: int
    tables: tuple[SideTable, ...]


def read_side_tables(release: Release) -> dict[str, SideTable]:
    """Return the side tables of a release by name.

    Raises: SideTableError when their record is damaged; StoreError.
    """
    path = release.path(RECORD)
    if not release.store.exists(path):
        return {}
    try:
        return {table.name: table for table in from_json(SideTables, release.store.read(path)).tables}
    except ValueError as error:
        raise SideTableError(f"{path} cannot be read ({error}): restore it from a copy.") from error


def write_side_tables(release: Release, tables: Iterable[SideTable]) -> None:
    """Write SHA256SUMS of each table, then their record.

    Raises: StoreError.
    """
    ordered = tuple(sorted(tables, key=lambda table: table.name))
    for table in ordered:
        sums = {path.partition("/")[2]: sha256 for path, sha256 in table.checksums.items()}
        release.store.put(release.path(f"{table.name}/{CHECKSUMS}"), checksum_list(sums))
    release.store.put(release.path(RECORD), to_json(SideTables(format=FORMAT, tables=ordered)))


def delete_side_files(release: Release, table: SideTable, kept: SideTable) -> None:
    """Delete the files of a table that is no longer in the record, except those that the new one has.

    Raises: StoreError.
    """
    for path in table.checksums.keys() - kept.checksums.keys():
        release.store.delete(release.path(path))
    for folder in {"/".join(file.path.split("/")[:2]) for file in table.files}:
        release.store.delete_empty_folders(release.path(folder))


def score_tables(tables: Mapping[str, SideTable], scores: Iterable[str]) -> dict[str, SideTable]:
    """Return the table that has each score, which takes the place of the release's own: `tags` before others, these by
    name.
    """
    found = {}
    for score in scores:
        having = [name for name in tables if score in tables[name].columns]
        if having:
            found[score] = tables[min(having, key=lambda name: (name != TAGS, name))]
    return found


def check_table_name(name: str) -> str:
    """Return the name of a table.

    Raises: SideTableError for one that cannot be a folder's, and a table's in an expression.
    """
    if not _NAME.fullmatch(name) or name.lower() in _TAKEN:
        raise SideTableError(f"{name!r} cannot name a side table: use letters, digits and '_', such as tags.")
    return name


def side_path(release: Release, name: str, generation: int, data: ReleaseFile) -> str:
    """Return the path in the release of the file that belongs to a data file, for its version."""
    return f"{name}/{versioned(str(generation), release.record.version)}/{data.path.partition('/')[2]}"


def side_path_in(path: str, version: str) -> str:
    """Return the path of a side table's file for another version of the release."""
    name, _, rest = path.partition("/")
    return f"{name}/{in_version(rest, version)}"


def side_schema(columns: pa.Schema) -> pa.Schema:
    """Return the columns of a table's files."""
    return pa.schema([("id", pa.int64()), *columns])
