"""Columns of a table of pairs as numpy arrays, independent of the types in the file.

LAION's files differ among themselves: sizes as int32, int64 or double with NaN for null, tags as float or double,
LANGUAGE missing. Names are compared without regard to case, because some copies have them in lower case.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.errors import DatasetError
from dataset.stats.counts import COLUMNS

BoolArray = npt.NDArray[np.bool_]


class ColumnError(DatasetError):
    """A table cannot be counted: it has none of the columns, or one of another type."""


def find_columns(names: Sequence[str], path: str) -> dict[str, str]:
    """Return the table's own name for each of COLUMNS that it has.

    Raises: ColumnError when it has none of them, or one twice.
    """
    lower = {name.lower(): name for name in reversed(names)}
    found = {column: column if column in names else lower.get(column.lower()) for column in COLUMNS}
    if not any(found.values()):
        raise ColumnError(f"{path} has none of the columns {', '.join(COLUMNS)}: name a table of image-text pairs.")
    twice = [name for name in found.values() if names.count(name) > 1]
    if twice:
        raise ColumnError(f"{path} has two columns {twice[0]}: name a table that has each column once.")
    return {column: name for column, name in found.items() if name is not None}


def string_column(column: pa.Array, name: str) -> pa.Array:
    """Return a column as a string array with its nulls.

    Raises: ColumnError when it contains anything else.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ColumnError(f"The column {name} has the type {column.type}, not string: convert it first.")
    return column if column.type == pa.string() else column.cast(pa.string())


def integer_column(column: pa.Array, name: str) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """Return (values, is known) of a column of sizes, both (N,); null and NaN are unknown and 0; fractions are cut
    off.
    """
    if pa.types.is_integer(column.type):
        values, known = _numbers(column)
    else:
        values, known, _ = float_column(column, name)
    return np.where(known, values, 0).clip(-1, 2**40).astype(np.int64), known


def float_column(column: pa.Array, name: str) -> tuple[npt.NDArray[np.floating], BoolArray, int]:
    """Return (values, is known, number of NaNs) of a column, the first two (N,); null and NaN are unknown.

    float32 stays float32; other numbers become float64, integers beyond 2^53 are rounded to the nearest float64.
    """
    kind = column.type
    if not (
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):
        raise ColumnError(f"The column {name} has the type {kind}, not a number: convert it first.")
    values: npt.NDArray[np.floating]
    values, valid = _numbers(column if kind == pa.float32() else column.cast(pa.float64(), safe=False))
    is_nan = np.isnan(values)
    return values, valid & ~is_nan, int(np.count_nonzero(is_nan & valid))


def _numbers(column: pa.Array) -> tuple[npt.NDArray[Any], BoolArray]:
    """Return (values, is not null) of integers or floats; null is 0."""
    if not column.null_count:
        return column.to_numpy(zero_copy_only=False), np.ones(len(column), np.bool_)
    filled = pc.fill_null(column, pa.scalar(0, column.type))
    return filled.to_numpy(zero_copy_only=False), column.is_valid().to_numpy(zero_copy_only=False)
