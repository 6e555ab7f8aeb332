"""Split a link list, such as LAION's or DataComp's, into the pieces that `tracker seed --url-col` makes jobs of.

Invariant: the pieces cover every row of the list exactly once. A piece is a whole file or some row groups of a parquet
file. Its location is an absolute path or a URI, which every machine can open.

Of a parquet file only the footer is read here; of a text file, as much as it takes to find the columns, by the same
rules as ingest workers. Parquet files are cut at row groups into pieces of about ROWS_A_PIECE. In other files the
beginnings of rows are unknown, so each file is one piece, read as a stream.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tracker.errors import TrackerError
from tracker.seeding.link_list_files import ListFile, find_files
from tracker.seeding.list_types import is_text, json_type, named, type_name, wider
from tracker.seeding.text_lists.lines import BLOCK_BYTES, MAX_LINE_BYTES, TextListError
from tracker.seeding.text_lists.rows import read_blocks, read_names

ROWS_A_PIECE = 250_000
"""Half of the rows that ingest shuffles together; if a worker dies, half a minute of work is lost."""
LOOKED_AT_BYTES = MAX_LINE_BYTES
"""Most bytes of a text file (unpacked) that are searched for the columns."""
FILES_AT_ONCE = 16


class ListError(TrackerError):
    """A list does not exist, or lacks a named column."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a list's columns, by their meaning."""

    url: str
    caption: str | None = None
    language: str | None = None
    extra: Sequence[str] = ()
    sha256: str | None = None
    """Also an extra column; shows whether a picture has changed."""

    def __post_init__(self) -> None:
        if self.sha256 is not None and self.sha256 not in self.extra:
            object.__setattr__(self, "extra", (*self.extra, self.sha256))

    @property
    def texts(self) -> list[str]:
        return [name for name in (self.url, self.caption, self.language) if name is not None]

    @property
    def all(self) -> list[str]:
        return list(dict.fromkeys([*self.texts, *self.extra]))


def split_names(names: str) -> tuple[str, ...]:
    """Split names at commas, without duplicates and surrounding spaces."""
    return tuple(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))


@dataclass(frozen=True, slots=True)
class Piece:
    """Some row groups of a parquet file, or a whole file of another format; its `rows` are unknown (None)."""

    list: str
    format: str
    bytes: int
    is_gzip: bool = False
    first_group: int = 0
    groups: int | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    pieces: Sequence[Piece]
    extra: Mapping[str, str] = field(default_factory=dict)
    """Types of the extra columns, by name, as the recipe keeps them."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The pieces, types and columns found in one file."""

    pieces: Sequence[Piece]
    types: Mapping[str, str | None]
    """Types of the extra columns; None for a column without values."""
    met: Collection[str]
    """The columns found; in JSON only those with a value."""


def read_listing(sources: Sequence[str], columns: Columns) -> Listing:
    """Inspect every file of a list. A source is a file, or a folder searched with its subfolders; local, in an object
    store, or (files only) on a web server.

    Raises:
        ListError: the list is empty or missing, a file is not a list, lacks a column or has one of an unsupported type,
            or an extra column has different types in two files.
    """
    try:
        files = [file for source in sources for file in find_files(source)]
    except ValueError as error:
        raise ListError(str(error)) from error
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        seen = list(threads.map(lambda file: _look(file, columns), files))
    pieces = [piece for one in seen for piece in one.pieces]
    if not pieces:
        raise ListError(f"{sources[0]} has no rows: check that it is the right list")
    met = {name for one in seen for name in one.met}
    if missing := [name for name in columns.all if name not in met]:
        _require_keys(files, missing)
    return Listing(pieces, _agreed_types(files, seen))


def _agreed_types(files: Sequence[ListFile], seen: Sequence[_Seen]) -> dict[str, str]:
    """Return the types of the extra columns; JSON has no column types, so types found in JSON are widened."""
    agreed: dict[str, str | None] = {}
    by_schema: dict[str, str] = {}
    for file, one in zip(files, seen, strict=True):
        for name, kind in one.types.items():
            if kind is None:
                agreed.setdefault(name, None)
            elif file.is_json and name not in by_schema:
                agreed[name] = wider(agreed.get(name), kind)
            elif by_schema.setdefault(name, kind) == kind and agreed.get(name) in (None, kind):
                agreed[name] = kind
            elif not (file.is_json and wider(by_schema[name], kind) == by_schema[name]):
                raise ListError(
                    f"column {name!r} is {kind} in {file.location} and {agreed[name]} in a file before it: "
                    "seed them as two runs, or leave it out of --extra-cols"
                )
    return {name: named(kind) for name, kind in agreed.items()}


def _look(file: ListFile, columns: Columns) -> _Seen:
    if not file.bytes:
        return _Seen([], {}, [])
    try:
        with file.open() as opened:
            if file.format == "parquet":
                parquet = pq.ParquetFile(opened)
                types = _schema_types(file, parquet.schema_arrow, columns)
                return _Seen(_pieces(file, parquet.metadata), types, columns.all)
            return _look_at_text(file, opened, columns)
    except TextListError as error:
        raise ListError(f"{file.location} {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise ListError(f"{file.location} cannot be read as {file.format}: {error}; check the file") from error


def _schema_types(file: ListFile, schema: pa.Schema, columns: Columns) -> dict[str, str | None]:
    """Return the types of the extra columns of a parquet file; None for a column of nulls."""
    for name in columns.all:
        if schema.names.count(name) != 1:
            how_many = "no column" if name not in schema.names else "two columns"
            raise ListError(f"{file.location} has {how_many} {name!r}; it has {', '.join(schema.names)}")
    for name in columns.texts:
        if not is_text(schema.field(name).type):
            raise ListError(f"{file.location}: column {name!r} is {schema.field(name).type}, not text: name another")
    types: dict[str, str | None] = {}
    for name in columns.extra:
        kind = schema.field(name).type
        types[name] = type_name(kind)
        if types[name] is None:
            raise ListError(f"{file.location}: column {name!r} is {kind}, a type that cannot be kept: leave it out")
        if pa.types.is_null(kind):
            types[name] = None
    return types


def _pieces(file: ListFile, metadata: pq.FileMetaData) -> list[Piece]:
    pieces: list[Piece] = []
    first, rows = 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= ROWS_A_PIECE or group == metadata.num_row_groups - 1:
            if rows:
                groups = group + 1 - first
                pieces.append(Piece(file.location, "parquet", file.bytes, False, first, groups, rows))
            first, rows = group + 1, 0
    return pieces


def _look_at_text(file: ListFile, opened: BinaryIO, columns: Columns) -> _Seen:
    """Read a text file until each column has been found; in csv, tsv and txt files all columns are text."""
    found: dict[str, str | None] = dict.fromkeys(columns.all)
    lines: Counter[bool] = Counter()
    for at, rows in enumerate(read_blocks(opened, file.format, columns.all, is_gzip=file.is_gzip)):
        readable = [row for row in rows if row is not None]
        lines.update({True: len(readable), False: len(rows) - len(readable)})
        if not file.is_json:
            found = dict.fromkeys(columns.all, "string")
            break
        for name, values in zip(columns.all, zip(*readable, strict=True), strict=False):
            found[name] = wider(found[name], json_type(values))
        if all(found.values()) or (at + 1) * BLOCK_BYTES >= LOOKED_AT_BYTES:
            break
    if not lines[True] and lines[False] and file.is_json:
        raise TextListError("does not begin with a JSON object: check the file")
    pieces = [Piece(file.location, file.format, file.bytes, file.is_gzip)]
    if file.is_json and not lines.total():
        pieces = []
    types = {name: found[name] for name in columns.extra}
    return _Seen(pieces, types, [name for name, kind in found.items() if kind is not None])


def _require_keys(files: Sequence[ListFile], missing: Sequence[str]) -> None:
    """Check that each column without values is at least a key in a JSON file; otherwise its name was mistyped.

    Raises:
        ListError: a name is not a key anywhere; the message names the first.
    """
    keys: dict[str, None] = {}
    for file in files:
        with file.open() as opened:
            keys |= dict.fromkeys(read_names(opened, file.format, is_gzip=file.is_gzip))
        if all(name in keys for name in missing):
            return
    name = next(name for name in missing if name not in keys)
    raise ListError(f"{files[0].location} has no column {name!r}; it has {', '.join(keys)}")
