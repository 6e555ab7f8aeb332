"""Link lists: their rows become packs, as pages do in extract.

Invariant: every row is a candidate or is counted under one reason: rows = candidates + dropped. What is held is
bounded in rows and in bytes, however well the list is compressed. URL and caption stay as the list has them, so that
LAION's `hash`, which is taken over both, still fits; only what a line of a batch's payload cannot hold is mended, and
counted: tab, line break and NUL in a caption become a space each; in a URL, where they mean nothing to a browser, they
go (NUL becomes %00), as white space around it does. A URL with white space or control characters that no browser takes
is dropped; other invalid ones go on, and the download says so of them (`bad_url`).
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
"""Ingest holds and shuffles two such packs together."""
BYTES_A_PACK = 256 << 20
"""Of rows that are long: fewer of them are in a pack."""
MAX_URL_BYTES = 8_192  # what a server takes of a request's first line, as nginx and Apache are delivered
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
    """Read a piece of a list and write its packs; `write(pack, slot)` opens a file, as `Store.write` opens files.

    `on_progress` is called with a number of rows every now and then, and may raise to end it all.

    Raises: ListReadError when it is no file of its format or misses a column; whatever `write` and `on_progress` raise.
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
        self._bytes = 0

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
        self._bytes += candidates.nbytes
        if sum(self._writer.slot_rows) >= ROWS_A_PACK or self._bytes >= BYTES_A_PACK:
            self.close()

    def close(self) -> None:
        """Put the pack that is being written in its place."""
        if self._writer is not None:
            self._writer.finish(self._metadata)
            self.rows.append(self._writer.slot_rows)
            self._writer, self._bytes = None, 0
            self._files.close()


def _candidates(rows: Rows, piece: ListPiece, report: ListReport) -> pa.Table:
    """Keep what can be a candidate, in the schema of a list's pack; count the rest."""
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
    """Return a column as text; what is not UTF-8 becomes null, and `bad` true at its place.

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
    """Return numbers, times and the like as text."""
    try:
        values, _ = json_values(column)
    except ColumnTypeError as error:
        raise ListReadError(f"The list's column {name!r} is not text: {error}") from error
    if any(isinstance(value, list | dict) for value in values):
        raise ListReadError(f"The list's column {name!r} is {column.type}, not text: name another.")
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _mended_urls(urls: pa.Array) -> tuple[pa.Array, Any, Any]:
    """Return the URLs as a payload can hold them, and where they are not URLs and where they were mended.

    The URL standard passes over tabs and line breaks, and writes %00 for NUL in a path. Only URLs with white space or
    control characters are looked at.
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
    """Subset, language and probability: detected, the list's own, or none."""
    if piece.detect_language:
        return dict(classify_all(captions, piece.rule)._asdict())
    if rows.language is None:
        languages = pa.nulls(len(captions), pa.string())
    else:
        said = _utf8(rows.language, np.zeros(len(rows), bool), piece.language).filter(kept)
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
