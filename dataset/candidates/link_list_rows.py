"""The rows of link lists: parquet or text, as columns of one shape.

A value that is not of its extra column's type becomes null and is counted.
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
    """The list is not what it was when it was seeded, or cannot be read."""


class Dropped(StrEnum):
    """Why a row is no candidate: the first reason that holds, in this order."""

    UNREADABLE = "unreadable"
    """A line that is not a JSON object, has not as many fields as the header, or is over 16 MiB."""
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
    """What to read of a link list: a whole file, or the row groups `first_group` and the `groups` - 1 after it."""

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


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a list (N)."""

    url: pa.Array
    """(N,) text, or bytes that should be UTF-8; so are caption and language."""
    caption: pa.Array | None
    language: pa.Array | None
    extra: pa.Array
    """(N,) string: the extra columns, packed."""

    def __len__(self) -> int:
        return len(self.url)


def read_rows(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[Rows]:
    """Yield the rows, and count those that cannot be read.

    Raises: ListReadError when the file is not of its format, or has not the columns.
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
        raise ListReadError("The list has fewer row groups than when it was seeded: seed it anew under another run.")
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
    """Pack the extra columns' JSON values, and name the others by what they are."""
    url = texts[piece.url]
    extra, lost = pack_extra(values, piece.extra, len(url), fitting)
    report.bad_extra += lost
    caption, language = (None if name is None else texts[name] for name in (piece.caption, piece.language))
    return Rows(url, caption, language, extra)


def _texts(values: Sequence[object]) -> pa.Array:
    """Return texts as they stood in the file; a number or an object where a text should be, as JSON writes it."""
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
    except UnicodeEncodeError:  # a lone surrogate by an escape in JSON
        return b"\xff"
