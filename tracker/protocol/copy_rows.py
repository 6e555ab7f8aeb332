"""Prepare candidates for COPY into a leaf of the pool, in Postgres's binary format.

    COPY tracker.<leaf> (<COLUMNS>) FROM STDIN (FORMAT binary)

Source: https://www.postgresql.org/docs/current/sql-copy.html (signature, rows of length-prefixed fields in network
order, trailer). Nothing is escaped, so no caption can break out of its field.

Invariant: a value that Postgres or a batch's payload cannot hold is refused before the first byte of its piece is sent.

Rejected: the text format, which is slower by a fifth (docs/performance.md).
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.sql import SQL, Identifier

from tracker.database.database import Connection
from tracker.errors import TrackerError

COLUMNS = ("pack", "pack_row", "leaf", "run_id", "attempt", "subset", "language", "url", "text", "extra")

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no header extension
TRAILER = (-1).to_bytes(2, "big", signed=True)
NOTHING = pa.scalar(b"", pa.large_binary())
NULL = -1  # the length of a null field

# Postgres stores no NUL; tab and newline separate the payload's fields and lines.
FORBIDDEN = b"\0\t\n"

COPY = SQL("COPY tracker.{leaf} ({columns}) FROM STDIN (FORMAT binary)")

Head = npt.NDArray[np.void]
Piece = bytes | memoryview
Buffer = bytes | Iterable[Piece]
"""All bytes that are sent to COPY, in one or more pieces of any size."""


class CopyError(TrackerError):
    """The pool cannot hold these candidates."""


def copy_into(connection: Connection, relation: str, buffer: Buffer) -> None:
    """Copy a prepared buffer into a leaf's relation, in the connection's transaction.

    Raises: what iterating over the buffer raises; the caller must then roll the transaction back.
    """
    statement = COPY.format(leaf=Identifier(relation), columns=SQL(", ").join(map(Identifier, COLUMNS)))
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for piece in (buffer,) if isinstance(buffer, bytes) else buffer:
            copy.write(piece)


def copy_rows(candidates: pa.Table, *, leaf: int, run_id: int, subset: str, attempt: int = 1) -> memoryview:
    """Return the candidates of one subset as rows for a leaf; the caller sends them between SIGNATURE and TRAILER.

    `candidates` has the columns pack int64, pack_row int32, language (string or null), url and text (string), and
    optionally extra (string or null, a list's other columns as JSON); other columns are ignored.

    Raises:
        CopyError: a field is null, or a string contains NUL, tab or newline.
    """
    for name in ("pack", "pack_row", "url", "text"):
        if candidates[name].null_count:
            raise CopyError(f"{candidates[name].null_count} candidates have no {name}; extract their pack again")
    language, url, text = (_strings(candidates, name) for name in ("language", "url", "text"))

    head = np.zeros(len(candidates), _head_type(subset))
    head["fields"] = len(COLUMNS)
    _fill(head, "pack", candidates["pack"].to_numpy())
    _fill(head, "pack_row", candidates["pack_row"].to_numpy())
    _fill(head, "leaf", leaf)
    _fill(head, "run_id", run_id)
    _fill(head, "attempt", attempt)
    _fill(head, "subset", subset.encode())
    head["language_length"] = pc.fill_null(pc.binary_length(language), NULL).to_numpy()

    texts = (_lengths(url), url, _lengths(text), text, *_extra(candidates))
    return _content(pc.binary_join_element_wise(_as_binary(head), pc.fill_null(language, b""), *texts, NOTHING))


def _extra(candidates: pa.Table) -> tuple[pa.Array | pa.Scalar, ...]:
    """Return the field with a list's other columns; it is empty for a crawl."""
    if "extra" not in candidates.column_names:
        return (pa.scalar(bytes(4), pa.large_binary()),)
    extra = pc.fill_null(_strings(candidates, "extra"), b"")
    return _lengths(extra), extra


def _head_type(subset: str) -> np.dtype[np.void]:
    """Return the type of a row's fixed part, up to the language's length."""
    return np.dtype(
        [
            ("fields", ">i2"),
            ("pack_length", ">i4"),
            ("pack", ">i8"),
            ("pack_row_length", ">i4"),
            ("pack_row", ">i4"),
            ("leaf_length", ">i4"),
            ("leaf", ">i4"),
            ("run_id_length", ">i4"),
            ("run_id", ">i4"),
            ("attempt_length", ">i4"),
            ("attempt", ">i2"),
            ("subset_length", ">i4"),
            ("subset", f"S{len(subset.encode())}"),  # an enum is sent as its label
            ("language_length", ">i4"),
        ]
    )


def _fill(head: Head, name: str, values: npt.ArrayLike) -> None:
    head[name] = values
    head[f"{name}_length"] = head.dtype[name].itemsize


def _strings(candidates: pa.Table, name: str) -> pa.Array:
    """Return a column's strings as bytes in one chunk; 64-bit offsets, because the joined rows may exceed 2 GiB."""
    column = candidates[name].cast(pa.large_binary()).combine_chunks()
    content = np.frombuffer(_content(column), np.uint8)
    if content.size == 0 or content.min() > max(FORBIDDEN):  # one pass, which is nearly always enough
        return column
    for character in FORBIDDEN:
        if (content == character).any():
            raise CopyError(f"a candidate's {name} contains the character {chr(character)!r}; extract its pack again")
    return column


def _lengths(strings: pa.Array) -> pa.Array:
    return _as_binary(pc.binary_length(strings).to_numpy().astype(">i4"))


def _as_binary(values: npt.NDArray[np.void] | npt.NDArray[np.int32]) -> pa.Array:
    """Return each value's bytes as an element, without a copy."""
    offsets = np.arange(len(values) + 1, dtype=np.int64) * values.dtype.itemsize
    return pa.Array.from_buffers(pa.large_binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def _content(strings: pa.Array) -> memoryview:
    """Return the bytes of all elements; the buffer of a sliced array holds more than these."""
    _, offsets, content = strings.buffers()
    if not len(strings) or content is None:
        return memoryview(b"")
    bounds = np.frombuffer(offsets, np.int64)
    start, end = bounds[strings.offset], bounds[strings.offset + len(strings)]
    return memoryview(content)[start:end]
