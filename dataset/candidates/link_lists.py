"""Turn link lists into packs, as extract does with pages.

Invariant: every row is a candidate or is counted under one reason (rows = candidates + dropped). Memory is bounded in
rows and in bytes, however well the list is compressed.

URLs and captions stay as they are in the list, so that LAION's `hash`, which covers both, still matches. Only
characters that a batch's payload cannot hold are changed, and such rows are counted: a tab, line break or NUL in a
caption becomes a space; in a URL tabs and line breaks are removed, NUL becomes %00, and white space around the URL is
removed, as browsers do. A URL with white space or control characters that browsers reject is dropped. Other invalid
URLs stay, and download reports them as `bad_url`.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset.candidates.language import Subset, classify_all
from dataset.candidates.link_list_rows import Dropped, ListPiece, ListReadError, ListReport, Rows, read_rows
from dataset.candidates.urls import Unresolved, parse_url
from dataset.formats.packs import LIST_PACK_SCHEMA, PackWriter
from dataset.formats.url_hashes import url_hashes
from dataset.recipe.json_columns import ColumnTypeError, is_bytes, is_text, json_values

ROWS_A_PACK = 250_000
"""Ingest holds two packs of this size in memory and shuffles them together."""
BYTES_A_PACK = 256 << 20
"""Limit for a pack's size in bytes: of long rows, fewer are in a pack."""
MAX_URL_BYTES = 8_192  # the default limit of nginx and Apache for a request line
MAX_CAPTION_BYTES = 65_536
MAX_EXTRA_BYTES = 65_536

_MENDED = re.compile("[\0\t\n\r]")
_URL_BLANK = "".join(map(chr, range(0x21)))
_URL_MENDING = str.maketrans({"\t": "", "\n": "", "\r": "", "\0": "%00"})


def read_list(
    source: BinaryIO,
    piece: ListPiece,
    *,
    slots: int,
    write: Callable[[int, int], AbstractContextManager[BinaryIO]],
    on_progress: Callable[[int], object],
    metadata: Mapping[str, str],
) -> ListReport:
    """Read a piece of a list and write its packs; `write(pack, slot)` opens a file as `Store.write` does.

    `on_progress` is called regularly with a number of rows; an exception that it raises stops the work.

    Raises: ListReadError when the file does not have its format or lacks a column; whatever `write` and `on_progress`
    raise.
    """
    report = ListReport()
    with _Packs(slots, write, metadata) as packs:
        for rows in read_rows(source, piece, report):
            on_progress(len(rows))
            report.rows += len(rows)
            packs.write(_candidates(rows, piece, report))
        packs.close()
    report.packs = packs.rows
    report.rows += report.dropped[Dropped.UNREADABLE.value]
    return report


class _Packs:
    """Writes candidates into packs of about ROWS_A_PACK rows; `rows` counts them by pack and slot."""

    def __init__(
        self, slots: int, write: Callable[[int, int], AbstractContextManager[BinaryIO]], metadata: Mapping[str, str]
    ) -> None:
        self.rows: list[list[int]] = []
        self._slots = slots
        self._open = write
        self._metadata = metadata
        self._files = ExitStack()
        self._writer: PackWriter | None = None
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: Any) -> None:
        self._files.__exit__(*failure)  # unfinished files are deleted

    def write(self, candidates: pa.Table) -> None:
        if not len(candidates):
            return
        if self._writer is None:
            with ExitStack() as opening:
                files = [opening.enter_context(self._open(len(self.rows), slot)) for slot in range(self._slots)]
                self._writer = opening.enter_context(PackWriter(files, LIST_PACK_SCHEMA))
                self._files = opening.pop_all()
        self._writer.write(candidates, url_hashes(candidates["url"]))
        self._bytes += candidates.nbytes
        if sum(self._writer.slot_rows) >= ROWS_A_PACK or self._bytes >= BYTES_A_PACK:
            self.close()

    def close(self) -> None:
        """Publish the pack that is being written."""
        if self._writer is not None:
            self._writer.finish(self._metadata)
            self.rows.append(self._writer.slot_rows)
            self._writer, self._bytes = None, 0
            self._files.close()


def _candidates(rows: Rows, piece: ListPiece, report: ListReport) -> pa.Table:
    """Return the rows that can be candidates, in the schema of a list's pack, and count the others."""
    n = len(rows)
    urls = pc.ascii_trim_whitespace(_utf8(rows.url, bad := np.zeros(n, bool), piece.url))
    captions = _utf8(rows.caption, bad, piece.caption) if rows.caption is not None else pa.array([""] * n, pa.string())
    captions, texts_mended = _mended(pc.fill_null(captions, ""))
    no_url = ~_truth(pc.greater(pc.binary_length(urls), 0)) & ~bad
    urls, bad_url, urls_mended = _mended_urls(urls)
    too_long = _over(urls, MAX_URL_BYTES) | _over(captions, MAX_CAPTION_BYTES) | _over(rows.extra, MAX_EXTRA_BYTES)
    keep = np.ones(n, bool)
    for reason, holds in (
        (Dropped.NO_URL, no_url),
        (Dropped.NOT_UTF8, bad),
        (Dropped.BAD_URL, bad_url),
        (Dropped.TOO_LONG, too_long),
    ):
        report.dropped[reason.value] += int((keep & holds).sum())
        keep &= ~holds
    report.mended += int((keep & (texts_mended | urls_mended)).sum())
    kept = pa.array(keep)
    captions = captions.filter(kept)
    columns = _languages(rows, piece, captions, kept) | {
        "url": urls.filter(kept),
        "text": captions,
        "page_url": pa.array([""] * len(captions), pa.string()),
        "extra": rows.extra.filter(kept),
    }
    return pa.table({name: columns[name] for name in LIST_PACK_SCHEMA.names}, schema=LIST_PACK_SCHEMA)


def _utf8(column: pa.Array, bad: Any, name: str | None) -> pa.Array:
    """Return a column as text; values that are not UTF-8 become null and are marked in `bad`.

    Raises: ListReadError when the column is not text.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_text(column.type) and not is_bytes(column.type):
        return _as_text(column, name)
    raw = column.cast(pa.binary())
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


def _as_text(column: pa.Array, name: str | None) -> pa.Array:
    """Return numbers, times and similar values as text."""
    try:
        values, _ = json_values(column)
    except ColumnTypeError as error:
        raise ListReadError(f"The list's column {name!r} is not text: {error}") from error
    if any(isinstance(value, list | dict) for value in values):
        raise ListReadError(f"The list's column {name!r} is {column.type}, not text: name another.")
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _mended_urls(urls: pa.Array) -> tuple[pa.Array, Any, Any]:
    """Return the URLs as a payload can hold them, a mask of invalid URLs, and a mask of changed URLs.

    By the URL standard, tabs and line breaks are ignored, and NUL in a path is written %00. Only URLs with white space
    or control characters are parsed.
    """
    odd = _truth(pc.match_substring_regex(urls, r"[\x00-\x20\x7f]"))
    bad, mended = np.zeros(len(urls), bool), np.zeros(len(urls), bool)
    if not odd.any():
        return urls, bad, mended
    texts: list[str | None] = urls.to_pylist()
    for at in np.flatnonzero(odd):
        text = texts[at] or ""
        bad[at] = isinstance(parse_url(text), Unresolved)
        texts[at] = text.strip(_URL_BLANK).translate(_URL_MENDING)
        mended[at] = texts[at] != text
    return pa.array(texts, pa.string()), bad, mended


def _mended(captions: pa.Array) -> tuple[pa.Array, Any]:
    odd = _truth(pc.match_substring_regex(captions, r"[\x00\t\n\r]"))
    if not odd.any():
        return captions, odd
    return pa.array([_MENDED.sub(" ", text) for text in captions.to_pylist()], pa.string()), odd


def _languages(rows: Rows, piece: ListPiece, captions: pa.Array, kept: pa.Array) -> dict[str, pa.Array]:
    """Return subset, language and probability: detected, from the list, or none."""
    if piece.detect_language:
        return dict(classify_all(captions, piece.rule)._asdict())
    if rows.language is None:
        languages = pa.nulls(len(captions), pa.string())
    else:
        said = _utf8(rows.language, np.zeros(len(rows), bool), piece.language).filter(kept)
        odd = pc.match_substring_regex(said, r"^[A-Za-z0-9-]{1,35}$")  # RFC 5646: no tag is longer
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
    """Return a boolean column as a mask (N,) bool; null counts as false."""
    flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return pc.fill_null(flat, False).to_numpy(zero_copy_only=False)
