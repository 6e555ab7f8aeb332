"""Read the rows of a csv or tsv.

In csv quotes follow RFC 4180, except that an unmatched quote is an ordinary character: its line is split at the commas,
and the next line is read normally. A caption of two lines looks like two captions with one unmatched quote each;
therefore lines that are complete rows, URL included, are not joined.

A tsv has no quoting and no line breaks in a field. A field that is entirely in quotes, as pandas and Excel write it, is
unquoted.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from operator import itemgetter

from .lines import MAX_LINE_BYTES, Lines, TextListError

MAX_RECORD_LINES = 1_000
"""A quote that is still open after so many lines is an ordinary character."""
DELIMITERS = {"csv": ",", "tsv": "\t"}

csv.field_size_limit(2 * MAX_LINE_BYTES)  # lines have their own bound

TextRow = Sequence[str] | None


def split_header(blocks: Iterator[Lines], kind: str) -> tuple[list[str], Iterator[Lines]]:
    """Return the columns' names, and the lines after them."""
    for lines in blocks:
        for at, line in enumerate(lines):
            if line:
                header = _quoted(line, DELIMITERS[kind]) or line.split(DELIMITERS[kind])
                return header, chain([lines[at + 1 :]], blocks)
    return [], blocks


def table_rows(
    blocks: Iterator[Lines], kind: str, header: Sequence[str], wanted: Sequence[str]
) -> Iterator[list[TextRow]]:
    """Yield the rows after the header in groups; a row has the wanted fields, the URL first.

    Raises: TextListError when a column is missing or its name occurs twice.
    """
    for name in wanted:
        if header.count(name) != 1:
            how_many = "no column" if name not in header else "two columns"
            raise TextListError(f"has {how_many} {name!r}; it has {', '.join(header)}")
    table = _Table(len(header), [header.index(name) for name in wanted])
    if kind == "tsv":
        yield from map(table.tsv_rows, blocks)
        return
    begun: Lines = []
    for lines in blocks:
        rows, begun = table.csv_rows([*begun, *lines], is_end=False)
        yield rows
    yield table.csv_rows(begun, is_end=True)[0]


class _Table:
    """Splits lines into rows of `width` fields and keeps the fields at `places`, the URL first."""

    def __init__(self, width: int, places: Sequence[int]) -> None:
        self._width = width
        self._url = places[0]
        self._has_spans = False  # or unmatched quotes: then the next block probably has some as well
        self._pick: Callable[[Sequence[str]], Sequence[str]] = (
            itemgetter(*places) if len(places) > 1 else lambda fields: (fields[places[0]],)
        )

    def tsv_rows(self, lines: Lines) -> list[TextRow]:
        return [self._tsv_row(line) for line in lines if line != ""]

    def csv_rows(self, lines: Lines, *, is_end: bool) -> tuple[list[TextRow], Lines]:
        """Return the rows, and the lines of a last record that may continue in the next block."""
        width, pick = self._width, self._pick
        records: list[list[str]] = []
        if not self._has_spans:
            with suppress(csv.Error):
                records = list(csv.reader(lines, strict=True))  # type: ignore[arg-type]  # None raises csv.Error
        if len(records) == len(lines):  # each record is one line, and all quotes match
            return [pick(fields) if len(fields) == width else None for fields in records if fields], []
        self._has_spans = True
        rows: list[TextRow] = []
        ended = [None if line is None else line + "\n" for line in lines]
        at = 0
        while at < len(lines):
            at = self._read_on(ended, at, rows)
            if at == len(lines):
                break
            line = lines[at]  # this line does not follow RFC 4180
            if not is_end and self._may_go_on(lines, at):
                return rows, lines[at:]
            rows.append(None if line is None else self._row(line.split(",")))
            at += 1
        return rows, []

    def _read_on(self, lines: Sequence[str | None], at: int, rows: list[TextRow]) -> int:
        """Append the records that follow RFC 4180 to `rows`; return the line of the first one that does not."""
        reader = csv.reader(lines[at:], strict=True)  # type: ignore[arg-type]  # as above
        begin = at
        try:
            for fields in reader:
                end = begin + reader.line_num
                if end - at > 1 and not self._is_record(lines[at:end], fields):
                    break
                if fields:
                    rows.append(self._row(fields))
                at = end
        except csv.Error:
            pass
        return at

    def _tsv_row(self, line: str | None) -> TextRow:
        if line is None:
            return None
        fields = line.split("\t")
        if '"' not in line:
            return self._pick(fields) if len(fields) == self._width else None
        if len(fields) == self._width:
            return [_unquoted(field) for field in self._pick(fields)]
        return self._row(_quoted(line, "\t") or fields)

    def _row(self, fields: Sequence[str]) -> TextRow:
        return self._pick(fields) if len(fields) == self._width else None

    def _may_go_on(self, lines: Lines, at: int) -> bool:
        """Return whether the record at `at` may continue after these lines, because a quote is open."""
        is_open, size = False, 0
        for line in lines[at : at + MAX_RECORD_LINES]:
            size += len(line or "")
            if line is None or size > MAX_LINE_BYTES:
                return False
            is_open ^= line.count('"') % 2 == 1
            if not is_open:
                return False
        return len(lines) - at < MAX_RECORD_LINES

    def _is_record(self, lines: Sequence[str | None], fields: Sequence[str]) -> bool:
        """Return whether the lines are one record, not several rows joined by an unmatched quote."""
        if len(fields) != self._width or len(lines) > MAX_RECORD_LINES:
            return False
        first, *others = map(str, lines)
        return not (self._is_row(first) and any(map(self._is_row, others)))

    def _is_row(self, line: str) -> bool:
        fields = line.split(",")
        return len(fields) == self._width and fields[self._url].lstrip('"').startswith(("http://", "https://"))


def _quoted(record: str, delimiter: str) -> list[str] | None:
    """Split a record by RFC 4180; None if its quotes are invalid."""
    try:
        records = list(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None


def _unquoted(field: str) -> str:
    """Return the text of a field that is entirely in quotes, with doubled quotes inside; any other field unchanged."""
    if field[:1] != '"' or field[-1] != '"' or len(field) < 2:
        return field
    inner = field[1:-1]
    return field if '"' in inner.replace('""', "") else inner.replace('""', '"')
