"""Finished lists of links: rows of parquet, csv, tsv or JSON lines become packs, as pages do in extract.

Invariant: every row is a candidate or is counted under one reason: rows = candidates + dropped. What is held is one
pack's rows. URL and caption stay as the list has them, so that LAION's `hash`, which is taken over both, still fits;
only what a line of a batch's payload cannot hold is mended, and counted: tab, line break and NUL in a caption become a
space each, and white space around a URL goes. A URL that is none goes on: the download says so of it (`bad_url`).

The formats' own texts are read by Python's csv and json, row by row, so that one broken row spoils no other; Arrow's
readers give up the file, or guess a column's type from the first block. A value that is not of its extra column's type
becomes null and is counted.
"""

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.errors import DatasetError
from dataset.extra import arrow_type, pack_extra
from dataset.keys import url_hashes
from dataset.language import Subset, classify_all
from dataset.packs import LIST_PACK_SCHEMA, PackWriter
from dataset.recipe import LanguageRule

ROWS_HELD = 65_536
"""Rows read at once: some 30 MB."""
ROWS_A_PACK = 250_000
"""Ingest holds and shuffles two such packs together."""
MAX_URL_BYTES = 8_192  # what a server takes of a request's first line, as nginx and Apache are delivered
MAX_CAPTION_BYTES = 65_536
MAX_EXTRA_BYTES = 65_536
MAX_LINE_BYTES = 16 << 20

_MENDED = re.compile("[\0\t\n\r]")


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
    """White space or a control character inside."""
    TOO_LONG = "too_long"
    """URL over MAX_URL_BYTES, or caption or extra columns over 64 KiB: the pool is no place for documents."""


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
    """Captions in which a tab, a line break or NUL became a space."""
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


def read_list(
    source: BinaryIO,
    piece: ListPiece,
    *,
    slots: int,
    write: Callable[[int, int], AbstractContextManager[BinaryIO]],
    on_progress: Callable[[int], object],
    metadata: Mapping[str, str],
) -> ListReport:
    """Read a piece of a list and write its packs; `write(pack, slot)` opens a file, as `Store.write` opens files.

    `on_progress` is called with a number of rows every now and then, and may raise to end it all.

    Raises: ListReadError when it is no file of its format or misses a column; whatever `write` and `on_progress` raise.
    """
    report = ListReport()
    with _Packs(slots, write, metadata) as packs:
        for rows in _batches(source, piece, report):
            on_progress(len(rows))
            report.rows += len(rows)
            packs.write(_candidates(rows, piece, report))
        packs.close()
    report.packs = packs.rows
    report.rows += report.dropped[Dropped.UNREADABLE.value]
    return report


class _Packs:
    """Writes candidates into packs of about ROWS_A_PACK; `rows` counts them by pack and slot."""

    def __init__(
        self, slots: int, write: Callable[[int, int], AbstractContextManager[BinaryIO]], metadata: Mapping[str, str]
    ) -> None:
        self.rows: list[list[int]] = []
        self._slots = slots
        self._open = write
        self._metadata = metadata
        self._files = ExitStack()
        self._writer: PackWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: Any) -> None:
        self._files.__exit__(*failure)  # unfinished files are thrown away

    def write(self, candidates: pa.Table) -> None:
        if not len(candidates):
            return
        if self._writer is None:
            with ExitStack() as opening:
                files = [opening.enter_context(self._open(len(self.rows), slot)) for slot in range(self._slots)]
                self._writer = opening.enter_context(PackWriter(files, LIST_PACK_SCHEMA))
                self._files = opening.pop_all()
        self._writer.write(candidates, url_hashes(candidates["url"]))
        if sum(self._writer.slot_rows) >= ROWS_A_PACK:
            self.close()

    def close(self) -> None:
        """Put the pack that is being written in its place."""
        if self._writer is not None:
            self._writer.finish(self._metadata)
            self.rows.append(self._writer.slot_rows)
            self._writer = None
            self._files.close()


def _batches(source: BinaryIO, piece: ListPiece, report: ListReport) -> Iterator[pa.Table]:
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
            table[_extra(name)] = _column(values, arrow_type(piece.extra[name]), report)
    return pa.table(table)


def _bytes(value: object) -> bytes | None:
    """A text as it stood in the file; a number or an object where a text should be, as JSON writes it."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
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
        return json.dumps(value, ensure_ascii=False)
    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
        report.bad_extra += 1
        return None


def _extra(name: str) -> str:
    """Name the typed twin of a column that is read as text, too."""
    return f"extra {name}"


def _candidates(rows: pa.Table, piece: ListPiece, report: ListReport) -> pa.Table:
    """Keep what can be a candidate, in the schema of a list's pack; count the rest."""
    n = len(rows)
    urls = pc.ascii_trim_whitespace(_utf8(rows[piece.url], bad := np.zeros(n, bool)))
    captions = _utf8(rows[piece.caption], bad) if piece.caption else pa.array([""] * n, pa.string())
    captions, texts_mended = _mended(pc.fill_null(captions, ""))
    extra = _packed_extra(rows, piece, report)
    no_url = ~_truth(pc.greater(pc.binary_length(urls), 0)) & ~bad
    bad_url = _truth(pc.match_substring_regex(urls, r"[\x00-\x20\x7f]"))
    too_long = _over(urls, MAX_URL_BYTES) | _over(captions, MAX_CAPTION_BYTES) | _over(extra, MAX_EXTRA_BYTES)
    keep = np.ones(n, bool)
    for reason, holds in (
        (Dropped.NO_URL, no_url),
        (Dropped.NOT_UTF8, bad),
        (Dropped.BAD_URL, bad_url),
        (Dropped.TOO_LONG, too_long),
    ):
        report.dropped[reason.value] += int((keep & holds).sum())
        keep &= ~holds
    report.mended += int((keep & texts_mended).sum())
    kept = pa.array(keep)
    captions = captions.filter(kept)
    columns = _languages(rows, piece, captions, kept) | {
        "url": urls.filter(kept),
        "text": captions,
        "page_url": pa.array([""] * len(captions), pa.string()),
        "extra": extra.filter(kept),
    }
    return pa.table({name: columns[name] for name in LIST_PACK_SCHEMA.names}, schema=LIST_PACK_SCHEMA)


def _utf8(column: pa.ChunkedArray, bad: Any) -> pa.Array:
    """Read a column as text; what is not UTF-8 becomes null, and `bad` true at its place."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (pa.types.is_large_string(values.type) or pa.types.is_string(values.type)) and not _is_bytes(values.type):
        return values.cast(pa.string())
    raw = values.cast(pa.binary())
    try:
        return raw.cast(pa.string())  # checks
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        for at, value in enumerate(raw.to_pylist()):
            try:
                texts.append(None if value is None else value.decode("utf-8"))
            except UnicodeDecodeError:
                texts.append(None)
                bad[at] = True
        return pa.array(texts, pa.string())


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _mended(captions: pa.Array) -> tuple[pa.Array, Any]:
    odd = _truth(pc.match_substring_regex(captions, r"[\x00\t\n\r]"))
    if not odd.any():
        return captions, odd
    return pa.array([_MENDED.sub(" ", text) for text in captions.to_pylist()], pa.string()), odd


def _packed_extra(rows: pa.Table, piece: ListPiece, report: ListReport) -> pa.Array:
    if not piece.extra:
        return pa.array([""] * len(rows), pa.string())
    given = {name: rows[_extra(name)] if _extra(name) in rows.column_names else rows[name] for name in piece.extra}
    try:
        return pack_extra(pa.table(given))
    except UnicodeDecodeError:  # an Arrow text that is none
        safe = {name: _utf8(column, np.zeros(len(rows), bool)) if _is_text(column.type) else column
                for name, column in given.items()}  # fmt: skip
        report.bad_extra += sum(safe[name].null_count - given[name].null_count for name in given)
        return pack_extra(pa.table(safe))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _languages(rows: pa.Table, piece: ListPiece, captions: pa.Array, kept: pa.Array) -> dict[str, pa.Array]:
    """Subset, language and probability: detected, the list's own, or none."""
    if piece.detect_language:
        return dict(classify_all(captions, piece.rule)._asdict())
    if piece.language is None:
        languages = pa.nulls(len(captions), pa.string())
    else:
        said = _utf8(rows[piece.language], np.zeros(len(rows), bool)).filter(kept)
        odd = pc.match_substring_regex(said, r"^[A-Za-z0-9-]{1,35}$")  # RFC 5646 has no longer tag
        languages = pc.if_else(pc.fill_null(odd, False), said, pa.scalar(None, pa.string()))
    subset = pc.if_else(pc.equal(languages, "en"), Subset.EN.value, Subset.MULTI.value)
    return {
        "subset": pc.fill_null(subset, Subset.NOLANG.value),
        "language": languages,
        "probability": pa.nulls(len(captions), pa.float32()),
    }


def _over(strings: pa.Array, most: int) -> Any:
    return _truth(pc.greater(pc.binary_length(strings), most))


def _truth(values: pa.Array | pa.ChunkedArray) -> Any:
    """A boolean column as a mask, null for false -> (N,) bool."""
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.fill_null(flat, False).to_numpy(zero_copy_only=False)
