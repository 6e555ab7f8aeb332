"""Read parquet link lists in batches that are bounded by the memory of the decoded values.

Invariant: a batch has at most ROWS_HELD rows and about BYTES_HELD of values, or one row; reading it takes at most about
250 MB in addition to the file's own pages. A dictionary may have one caption of 30 kB for 60,000 rows in a file of 2
kB, and no size in the file's metadata shows this. So each dictionary is examined first, and columns whose rows could
take too much are read as indices and decoded some rows at a time.

Rejected: reading every column with a dictionary as indices: in most files the writer stops using such a column's
dictionary after 1 MB, and hashing all other values takes four times as long as reading them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as types

from dataset.recipe.json_columns import is_bytes, is_text

ROWS_HELD = 65_536
"""Rows read at once: about 30 MB."""
BYTES_HELD = 64 << 20
"""Bytes of rows in memory; if rows are long, fewer are read at a time."""
DICTIONARY_BYTES = 4 * BYTES_HELD
"""Maximum bytes of a batch's values, estimated from their dictionaries, for columns that are not read as indices."""

_PEEK_BUFFER = 1 << 16  # bytes of the file that are read, instead of all of a column's pages
_OTHER_BYTES = 8  # size of a number or a time
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 4}

_VIEWED = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A column of values in the file; if it belongs to a list or struct, several levels are above it."""

    number: int
    path: str
    width: int
    """Bytes of a value; for texts and bytes, those of an index."""
    is_bytes: bool


def read_batches(
    file: pq.ParquetFile, source: BinaryIO, groups: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of some row groups of a file, which was opened from `source`."""
    leaves = _leaves(file, columns)
    rows = _rows_at_once(file.metadata, groups, leaves)
    as_indices = _columns_read_as_indices(file.metadata, source, groups, leaves, rows)
    kinds = [file.schema_arrow.field(name).type for name in columns]
    together = [groups]
    if as_indices:
        file = pq.ParquetFile(source, metadata=file.metadata, read_dictionary=as_indices)
        # Arrow cannot join the dictionaries of two row groups in nested columns
        together = [[group] for group in groups]
    for some in together:
        for batch in file.iter_batches(rows, row_groups=some, columns=columns):
            for piece in _sliced(batch):
                read = (piece[name] for name in columns)
                yield pa.record_batch(list(map(_decoded, read, kinds)), list(columns))


def _leaves(file: pq.ParquetFile, columns: Sequence[str]) -> list[_Leaf]:
    leaves = []
    for number in range(len(file.schema)):
        leaf = file.schema.column(number)
        if leaf.path in columns or leaf.path.startswith(tuple(f"{name}." for name in columns)):
            kind = leaf.physical_type
            width = leaf.length if kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS[kind]
            leaves.append(_Leaf(number, leaf.path, width, kind == "BYTE_ARRAY"))
    return leaves


def _rows_at_once(metadata: pq.FileMetaData, groups: Sequence[int], leaves: Sequence[_Leaf]) -> int:
    """Return how many rows are read at once; if rows are long, fewer, so that they take about BYTES_HELD."""
    total = rows = 0
    for number in groups:
        group = metadata.row_group(number)
        rows += group.num_rows
        for leaf in leaves:
            chunk = group.column(leaf.number)
            total += max(chunk.total_uncompressed_size, chunk.num_values * leaf.width)
    return max(1, min(ROWS_HELD, BYTES_HELD * rows // max(total, 1)))


def _columns_read_as_indices(
    metadata: pq.FileMetaData, source: BinaryIO, groups: Sequence[int], leaves: Sequence[_Leaf], rows: int
) -> list[str]:
    """Return the paths of the columns that would take too much memory if every row had its dictionary's longest
    value.
    """
    longest: dict[str, int] = {}
    for number in groups:
        group = metadata.row_group(number)
        for leaf in leaves:
            chunk = group.column(leaf.number)
            if leaf.is_bytes and chunk.has_dictionary_page and chunk.num_values:
                values = -(-chunk.num_values // max(group.num_rows, 1))  # of a row
                size = values * _longest_value(metadata, source, number, leaf.path)
                longest[leaf.path] = max(size, longest.get(leaf.path, 0))
    left = DICTIONARY_BYTES // rows
    as_indices = []
    for path, size in sorted(longest.items(), key=lambda item: item[1]):
        left -= size
        if left < 0:
            as_indices.append(path)
    return as_indices


def _longest_value(metadata: pq.FileMetaData, source: BinaryIO, group: int, path: str) -> int:
    """Return the bytes of the longest value in a column's dictionary, which is read together with the column's first
    row.
    """
    file = pq.ParquetFile(source, metadata=metadata, read_dictionary=[path], buffer_size=_PEEK_BUFFER)
    first = next(file.iter_batches(1, row_groups=[group], columns=[path], use_threads=False), None)
    return 0 if first is None else max(map(_longest_of, first.columns), default=0)


def _longest_of(array: pa.Array) -> int:
    if types.is_dictionary(array.type):
        return int(_row_bytes(array.dictionary).max(initial=0))
    return max(map(_longest_of, _inner(array)), default=0)


def _decoded(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column that may have been read as indices in its own type; for a view, in the type that it views."""
    if column.type == kind:
        return column
    alone = column.take(pa.array(np.arange(len(column))))  # casting a slice of lists would decode the whole column
    return alone.cast(_VIEWED.get(kind, kind))


def _sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch so that the values of each piece take about BYTES_HELD."""
    ends = np.cumsum(_sum(batch.columns, len(batch)))
    start = 0
    while start < len(batch):
        done = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + BYTES_HELD, "right")))
        yield batch.slice(start, end - start)
        start = end


def _row_bytes(array: pa.Array) -> Ints:
    """Return approximately how many bytes each row's value takes when decoded, (N,) int64."""
    kind = array.type
    if types.is_dictionary(kind):
        sizes = np.append(_row_bytes(array.dictionary), 0)  # the last size is that of null
        return np.asarray(sizes[array.indices.fill_null(len(sizes) - 1).to_numpy()])
    if is_text(kind) or is_bytes(kind):
        if kind in _VIEWED:
            array = array.cast(_VIEWED[kind])
        return np.asarray(pc.fill_null(pc.binary_length(array), 0).to_numpy(), np.int64)
    if types.is_struct(kind):
        return _sum(_inner(array), len(array))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        inner = _inner(array)
        ends = np.append(0, np.cumsum(_sum(inner, len(inner[0]))))
        return np.asarray(np.diff(ends[array.offsets.to_numpy()]))
    if types.is_fixed_size_list(kind):
        rows = _sum(_inner(array), len(array) * kind.list_size).reshape(len(array), kind.list_size)
        return np.asarray(rows.sum(axis=1), np.int64)
    return np.full(len(array), _OTHER_BYTES)


def _inner(array: pa.Array) -> Sequence[pa.Array]:
    """Return the array of values inside a nested array."""
    kind = array.type
    if types.is_struct(kind):
        return list(array.flatten())
    if types.is_map(kind):
        return [array.keys, array.items]
    if types.is_fixed_size_list(kind):
        return [array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)]
    return [array.values] if types.is_list(kind) or types.is_large_list(kind) else []


def _sum(arrays: Sequence[pa.Array], rows: int) -> Ints:
    return sum(map(_row_bytes, arrays), np.zeros(rows, np.int64))
