"""The rows of finished lists of links: parquet, csv, tsv or JSON lines as tables of one shape.

The formats' own texts are read by Python's csv and json, row by row, so that one broken row spoils no other; Arrow's
readers give up the file, or guess a column's type from the first block. A value that is not of its extra column's type
becomes null and is counted.
"""

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.recipe.extra_columns import arrow_type
from dataset.recipe.recipe import LanguageRule

ROWS_HELD = 65_536
"""Rows read at once: some 30 MB."""
MAX_LINE_BYTES = 16 << 20


class ListReadError(DatasetError):
    """The list is not what it was when it was seeded, or cannot be read."""


class Dropped(StrEnum):
    """Why a row is no candidate: the first reason that holds, in this order."""

    UNREADABLE = "unreadable"
    """A line that is no JSON object, or has not as many fields as the header."""
    NO_URL = "no_url"
    """Null, empty, or nothing but white space."""
    NOT_UTF8 = "not_utf8"
    """URL or caption is not UTF-8."""
    BAD_URL = "bad_url"
    """White space or a control character inside, where the URL standard allows none."""
    TOO_LONG = "too_long"
    """URL over 8 KiB, or caption or extra columns over 64 KiB: the pool is no place for documents."""


@dataclass(frozen=True, slots=True)
class ListPiece:
    """What to read: a whole file, or the row groups `first_group` and the `groups` - 1 after it."""

    format: str
    url: str
    caption: str | None
    language: str | None
    extra: Mapping[str, str]
    """Types by name."""
    first_group: int = 0
    groups: int | None = None
    detect_language: bool = False
    rule: LanguageRule = LanguageRule.LAION
    is_gzip: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns to read, each once."""
        named = [self.url, self.caption, self.language, *self.extra]
        return list(dict.fromkeys(name for name in named if name is not None))


@dataclass(slots=True)
class ListReport:
    """What became of a piece."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    """Rows in which a tab, a line break or NUL was taken out of the URL, or became a space in the caption."""
    bad_extra: int = 0
    """Values of extra columns that were not of their type and became null."""
    packs: list[list[int]] = field(default_factory=list)
    """Candidates by pack and slot."""

    @property
    def candidates(self) -> int:
        """Rows that went into packs."""
        return sum(map(sum, self.packs))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, each reason named."""
        dropped = {reason.value: self.dropped[reason.value] for reason in Dropped}
        return {
            "rows": self.rows,
            "candidates": self.candidates,
            "dropped": dropped,
            "mended_captions": self.mended,
            "bad_extra_values": self.bad_extra,
        }


def read_rows(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[pa.Table]:
    """Give the rows as tables of the piece's columns: URL, caption and language as bytes, the others typed."""
    try:
        match piece.format:
            case "parquet":
                yield from _parquet_rows(source, piece)
            case "csv" | "tsv":
                yield from _gathered(_csv_rows(_text(source, piece), piece, report), piece, report)
            case "jsonl":
                yield from _gathered(_json_rows(_text(source, piece), piece, report), piece, report)
            case other:
                raise ListReadError(f"{other!r} is no format of a list: use parquet, csv, tsv or jsonl.")
    except (pa.ArrowException, EOFError, gzip.BadGzipFile, csv.Error) as error:
        raise ListReadError(f"The list cannot be read as {piece.format} ({error}): check the file.") from error


def _parquet_rows(source: BinaryIO, piece: ListPiece) -> Iterator[pa.Table]:
    file = pq.ParquetFile(source)
    last = file.metadata.num_row_groups if piece.groups is None else piece.first_group + piece.groups
    if last > file.metadata.num_row_groups:
        raise ListReadError("The list has fewer row groups than when it was seeded: seed it anew under another run.")
    _require(piece.columns, file.schema_arrow.names)
    groups = range(piece.first_group, last)
    for batch in file.iter_batches(ROWS_HELD, row_groups=list(groups), columns=piece.columns):
        yield pa.Table.from_batches([batch])


def _require(wanted: Sequence[str], there: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ListReadError(f"The list has no column {missing[0]!r}: it has {', '.join(there)}.")


def _text(source: BinaryIO, piece: ListPiece) -> BinaryIO:
    if not piece.is_gzip:
        return source
    return io.BufferedReader(gzip.GzipFile(fileobj=source))


Row = Sequence[object]


def _csv_rows(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[Row]:
    """Read by RFC 4180; what is not UTF-8 comes as lone surrogates, one a byte."""
    csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(source, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter="\t" if piece.format == "tsv" else ",")
    header = next(reader, [])
    _require(piece.columns, header)
    places = [header.index(name) for name in piece.columns]
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            report.dropped[Dropped.UNREADABLE] += 1
            continue
        if len(row) == len(header):
            yield [row[place] for place in places]
        elif row:
            report.dropped[Dropped.UNREADABLE] += 1


def _json_rows(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[Row]:
    names = piece.columns
    while line := source.readline(MAX_LINE_BYTES):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
            yield [row.get(name) for name in names]
        except (ValueError, AttributeError, RecursionError):
            report.dropped[Dropped.UNREADABLE] += 1


def _gathered(rows: Iterator[Row], piece: ListPiece, report: ListReport) -> Iterator[pa.Table]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == ROWS_HELD:
            yield _typed(held, piece, report)
            held = []
    yield _typed(held, piece, report)


def _typed(rows: Sequence[Row], piece: ListPiece, report: ListReport) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([] for _ in piece.columns)
    named = {name: list(values) for name, values in zip(piece.columns, columns, strict=True)}
    texts = {piece.url, piece.caption, piece.language}
    table: dict[str, pa.Array] = {}
    for name, values in named.items():
        if name in texts:
            table[name] = pa.array([_bytes(value) for value in values], pa.binary())
        if name in piece.extra:
            table[typed_name(name)] = _column(values, arrow_type(piece.extra[name]), report)
    return pa.table(table)


def _bytes(value: object) -> bytes | None:
    """A text as it stood in the file; a number or an object where a text should be, as JSON writes it."""
    if value is None:
        return None
    text = value if isinstance(value, str) else strict_json.dumps(value, ensure_ascii=False)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate by an escape in JSON
        return b"\xff"


def _column(values: Sequence[object], kind: pa.DataType, report: ListReport) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        return pa.array([_fitting(value, kind, report) for value in values], kind)


def _fitting(value: object, kind: pa.DataType, report: ListReport) -> object:
    if pa.types.is_string(kind) and isinstance(value, dict | list | int | float):
        return strict_json.dumps(value, ensure_ascii=False)
    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        report.bad_extra += 1
        return None


def typed_name(name: str) -> str:
    """Name the typed twin of a column that is read as text, too."""
    return f"extra {name}"
