"""Read the rows of link lists, parquet or text, as columns of one shape.

A value that does not have its extra column's type becomes null and is counted.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.candidates.parquet_lists import BYTES_HELD, ROWS_HELD, read_batches
from dataset.candidates.text_lists.lines import BLOCK_BYTES, TextListError
from dataset.candidates.text_lists.rows import Row, read_blocks
from dataset.errors import DatasetError
from dataset.recipe.extra_columns import arrow_type, pack_extra
from dataset.recipe.json_columns import json_text, json_values
from dataset.recipe.recipe import LanguageRule


class ListReadError(DatasetError):
    """The list cannot be read, or has changed since it was seeded."""


class Dropped(StrEnum):
    """Why a row is not a candidate: the first reason that applies, in this order."""

    UNREADABLE = "unreadable"
    """A line that is not a JSON object, has another number of fields than the header, or is over 16 MiB."""
    NO_URL = "no_url"
    """The URL is null, empty, or only white space."""
    NOT_UTF8 = "not_utf8"
    """The URL or caption is not UTF-8."""
    BAD_URL = "bad_url"
    """The URL contains white space or a control character where the URL standard allows none."""
    TOO_LONG = "too_long"
    """The URL is over 8 KiB, or the caption or the extra columns are over 64 KiB."""


@dataclass(frozen=True, slots=True)
class ListPiece:
    """What to read of a link list: the whole file, or `groups` row groups from `first_group` on."""

    format: str
    url: str
    caption: str | None
    language: str | None
    extra: Mapping[str, str]
    """Types of the extra columns, by name."""
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
    """The counts for one piece."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    """Rows in which a tab, line break or NUL was removed from the URL or replaced by a space in the caption."""
    bad_extra: int = 0
    """Values of extra columns that did not have their column's type and became null."""
    packs: list[list[int]] = field(default_factory=list)
    """Candidates by pack and slot."""

    @property
    def candidates(self) -> int:
        """Rows written to packs."""
        return sum(map(sum, self.packs))

    def to_json(self) -> dict[str, Any]:
        """Return the counts, with an entry for every reason."""
        dropped = {reason.value: self.dropped[reason.value] for reason in Dropped}
        return {
            "rows": self.rows,
            "candidates": self.candidates,
            "dropped": dropped,
            "mended_captions": self.mended,
            "bad_extra_values": self.bad_extra,
        }


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows of a list, as columns."""

    url: pa.Array
    """(N,) text, or bytes that should be UTF-8; caption and language likewise."""
    caption: pa.Array | None
    language: pa.Array | None
    extra: pa.Array
    """(N,) string: the extra columns, packed by `pack_extra`."""

    def __len__(self) -> int:
        return len(self.url)


def read_rows(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[Rows]:
    """Yield the rows, and count the rows that cannot be read.

    Raises: ListReadError when the file does not have its format, or lacks a column.
    """
    try:
        if piece.format == "parquet":
            yield from _parquet_rows(source, piece, report)
        else:
            yield from _text_rows(source, piece, report)
    except TextListError as error:
        raise ListReadError(f"The list {error}.") from error
    except pa.ArrowException as error:
        raise ListReadError(f"The list cannot be read as {piece.format} ({error}): check the file.") from error


def _parquet_rows(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[Rows]:
    file = pq.ParquetFile(source)
    last = file.metadata.num_row_groups if piece.groups is None else piece.first_group + piece.groups
    if last > file.metadata.num_row_groups:
        raise ListReadError("The list has fewer row groups than when it was seeded: seed it again under another run.")
    _require(piece.columns, file.schema_arrow.names)
    groups = range(piece.first_group, last)
    for batch in read_batches(file, source, groups, piece.columns):
        values: dict[str, Sequence[object]] = {}
        for name in piece.extra:
            values[name], lost = json_values(batch[name])
            report.bad_extra += lost
        fitting = [name for name, kind in piece.extra.items() if batch[name].type == arrow_type(kind)]
        yield _rows(batch, values, piece, report, fitting)


def _require(wanted: Sequence[str], there: Sequence[str]) -> None:
    for name in wanted:
        if there.count(name) != 1:
            how_many = "no column" if name not in there else "two columns"
            raise ListReadError(f"The list has {how_many} {name!r}; it has {', '.join(there)}.")


def _text_rows(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[Rows]:
    held: list[Row] = []
    blocks = 0
    for block in read_blocks(source, piece.format, piece.columns, is_gzip=piece.is_gzip):
        readable = [row for row in block if row is not None]
        report.dropped[Dropped.UNREADABLE] += len(block) - len(readable)
        held += readable
        blocks += 1
        while len(held) >= ROWS_HELD or blocks * BLOCK_BYTES >= BYTES_HELD:
            yield _typed(held[:ROWS_HELD], piece, report)
            held, blocks = held[ROWS_HELD:], 0
    yield _typed(held, piece, report)


def _typed(rows: Sequence[Row], piece: ListPiece, report: ListReport) -> Rows:
    columns = zip(*rows, strict=True) if rows else ([] for _ in piece.columns)
    named = dict(zip(piece.columns, columns, strict=True))
    texts = {name: _texts(named[name]) for name in (piece.url, piece.caption, piece.language) if name is not None}
    return _rows(texts, named, piece, report)


def _rows(
    texts: Any,
    values: Mapping[str, Sequence[object]],
    piece: ListPiece,
    report: ListReport,
    fitting: Collection[str] = (),
) -> Rows:
    """Pack the extra columns as JSON, and assign the other columns by their role."""
    url = texts[piece.url]
    extra, lost = pack_extra(values, piece.extra, len(url), fitting)
    report.bad_extra += lost
    caption, language = (None if name is None else texts[name] for name in (piece.caption, piece.language))
    return Rows(url, caption, language, extra)


def _texts(values: Sequence[object]) -> pa.Array:
    """Return the values as texts; a number or an object in a text column is written as JSON."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, TypeError, UnicodeEncodeError):
        return pa.array([_bytes(value) for value in values], pa.binary())


def _bytes(value: object) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json_text(value)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # JSON escapes can contain a lone surrogate
        return b"\xff"
