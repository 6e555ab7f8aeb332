"""Read the rows of a text list of any format.

Invariant: each line that is not blank (in csv a record, in an array an element) becomes a row, or None if it cannot be
read. Only the wanted columns are read.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from .json_rows import array_values, line_values
from .lines import Text, TextListError
from .tables import split_header, table_rows

Row = Sequence[object]
"""The values of the wanted columns, in their order."""


def read_blocks(source: Any, kind: str, wanted: Sequence[str], *, is_gzip: bool) -> Iterator[Sequence[Row | None]]:
    """Yield the rows in order and in groups; a byte that is not UTF-8 becomes a lone surrogate.

    `wanted` begins with the URL's column. A list of bare URLs has only that column, under any name. The value of a key
    that a JSON object lacks is None.

    Raises: TextListError when the file does not have its format, ends early, or lacks a column; OSError when it cannot
        be read.
    """
    text = Text(source, is_gzip=is_gzip)
    match kind:
        case "csv" | "tsv":
            header, blocks = split_header(text.lines(), kind)
            yield from table_rows(blocks, kind, header, wanted)
        case "txt":
            if len(wanted) > 1:
                raise TextListError(f"has no column {wanted[1]!r}; a .txt list is bare URLs, one a line")
            for lines in text.lines():
                yield [line if line is None else [line.strip()] for line in lines if line is None or line.strip()]
        case "json" | "jsonl":
            for values in _json_values(text, kind):
                yield [[value.get(name) for name in wanted] if isinstance(value, dict) else None for value in values]
        case _:
            raise TextListError(f"is {kind!r}, which is not a format of link lists")


def read_names(source: Any, kind: str, *, is_gzip: bool) -> list[str]:
    """Return the columns of a csv or tsv, or the distinct keys of the first JSON objects (some megabytes).

    Raises: as `read_blocks`.
    """
    text = Text(source, is_gzip=is_gzip)
    if kind in ("csv", "tsv"):
        return split_header(text.lines(), kind)[0]
    blocks = islice(_json_values(text, kind), 2)
    return list(dict.fromkeys(name for values in blocks for row in values if isinstance(row, dict) for name in row))


def _json_values(text: Text, kind: str) -> Iterator[Iterable[object]]:
    """Yield JSON values in groups. A .json file is read as JSON lines unless it begins with '['."""
    if kind == "json" and text.begin.lstrip()[:1] == b"[":
        return array_values(text)
    return line_values(text.lines())
