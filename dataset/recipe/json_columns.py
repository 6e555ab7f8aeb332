"""Convert Arrow columns to JSON values, and check JSON values against a column's type.

Invariant: no value changes unnoticed. A value that cannot be kept becomes null and is counted: a date outside the
calendar, a text that is not UTF-8, or 0.75 in a column of integers.

Arrow's own conversions are not used for odd values: `pa.array([0.75], pa.int64())` is [0], `to_pylist` raises for
nanoseconds and for dates after 9999, and both drop the second of two struct fields with one name.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from math import inf, isfinite, isnan
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from dataset import strict_json
from dataset.errors import DatasetError

NOT_FINITE = {"NaN": float("nan"), "Infinity": inf, "-Infinity": -inf}
"""How a column of floats represents numbers that JSON does not have."""
OUT_OF_RANGE = "<value out of range"
"""The beginning of Arrow's text for a time outside the calendar."""
MAX_FLOAT32 = 3.4028234663852886e38

_PYTHON_TYPES = {pa.string(): str, pa.bool_(): bool, pa.float32(): float, pa.float64(): float}  # else int
_TEXTS = (types.is_string, types.is_large_string, types.is_string_view)
_BYTES = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
_LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)


class ColumnTypeError(DatasetError):
    """A column's type cannot be kept, or is not the required one."""


class _UnfitError(Exception):
    """A value does not have the type."""


def json_values(column: pa.Array | pa.ChunkedArray) -> tuple[list[object], int]:
    """Return a column's values as JSON values, None for null, and the number of values that became None.

    Decimals and times become texts (in UTC if the column has a zone), bytes become hex, structs objects, and maps
    arrays of [key, value]. NaN and the infinities stay Python floats.

    Raises: ColumnTypeError for unions and intervals.
    """
    reader = _Reader()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [value for chunk in chunks for value in reader.values(chunk)], reader.lost


def fit(values: Sequence[object], kind: pa.DataType) -> tuple[Sequence[object], int]:
    """Return JSON values with None for those of another type, and the number of those.

    A text column accepts any other value as its JSON text.
    """
    if _all_fit(values, kind):
        return values, 0
    fits, lost, fitting = _fitting(kind), 0, []
    for value in values:
        try:
            fitting.append(None if value is None else fits(value))
        except _UnfitError:
            fitting.append(None)
            lost += 1
    return fitting, lost


def json_text(value: object) -> str:
    """Return a value as JSON by RFC 8259; NaN, which it does not have, becomes null."""
    return str(_JSON.encode(value))


def named_if_not_finite(value: object) -> object:
    """Return a value with its non-finite floats replaced by their names in NOT_FINITE."""
    match value:
        case float() if not isfinite(value):
            return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case list():
            return [named_if_not_finite(item) for item in value]
        case _:
            return value


def finite_or_not(value: object) -> object:
    """Return a float column's value as Python floats: the inverse of `named_if_not_finite`."""
    match value:
        case str():
            return NOT_FINITE.get(value)
        case list():
            return [finite_or_not(item) for item in value]
        case _:
            return value


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's texts."""
    return any(holds(kind) for holds in _TEXTS)


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's bytes."""
    return any(holds(kind) for holds in _BYTES)


class _Reader:
    """Reads arrays, and counts lost values."""

    def __init__(self) -> None:
        self.lost = 0

    def values(self, array: pa.Array) -> list[object]:
        kind = array.type
        if types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind) or types.is_null(kind):
            return list(array.to_pylist())
        if is_text(kind):
            return self._texts(array)
        if is_bytes(kind):
            return [None if value is None else value.hex() for value in array.to_pylist()]
        if types.is_decimal(kind):
            return [None if value is None else str(value) for value in array.to_pylist()]
        if types.is_temporal(kind) and not types.is_interval(kind):
            return self._times(array)
        if types.is_nested(kind):
            return self._nested(array)
        return self.values(_decoded(array))

    def _nested(self, array: pa.Array) -> list[object]:
        kind = array.type
        if types.is_struct(kind):
            names = [field.name for field in kind]
            fields = [self.values(field) for field in array.flatten()]
            rows = zip(array.is_valid().to_pylist(), *fields, strict=True)
            return [dict(zip(names, row, strict=True)) if valid else None for valid, *row in rows]
        if types.is_map(kind):
            pairs = self._lists(array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
            return [None if row is None else [[*pair.values()] for pair in row] for row in pairs]
        if any(holds(kind) for holds in _LISTS):
            return list(self._lists(array))
        raise _unkept(kind)

    def _texts(self, array: pa.Array) -> list[object]:
        try:
            return list(array.to_pylist())
        except UnicodeDecodeError:
            return [self._text(value) for value in array.cast(pa.binary()).to_pylist()]

    def _text(self, value: bytes | None) -> str | None:
        try:
            return None if value is None else value.decode("utf-8")
        except UnicodeDecodeError:
            self.lost += 1
            return None

    def _times(self, array: pa.Array) -> list[object]:
        kind, suffix = array.type, ""
        if types.is_timestamp(kind) and kind.tz is not None:
            array, suffix = array.cast(pa.timestamp(kind.unit)), "Z"  # drop the zone: the stored value is UTC
        if types.is_duration(kind):
            suffix = f" {kind.unit}"
        texts = array.cast(pa.string()).to_pylist()
        self.lost += sum(text is not None and text.startswith(OUT_OF_RANGE) for text in texts)
        return [None if text is None or text.startswith(OUT_OF_RANGE) else text + suffix for text in texts]

    def _lists(self, array: pa.Array) -> list[Any]:
        items = self.values(array.flatten())
        rows: list[object] = []
        end = 0
        for length in pc.list_value_length(array).to_pylist():
            rows.append(None if length is None else items[end : end + length])
            end += length or 0
        return rows


def _decoded(array: pa.Array) -> pa.Array:
    """Return the values of an array in another encoding."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return array.storage
    if types.is_dictionary(kind):
        return array.dictionary_decode()
    if types.is_run_end_encoded(kind):
        return pc.run_end_decode(array)
    raise _unkept(kind)


def _unkept(kind: pa.DataType) -> ColumnTypeError:
    return ColumnTypeError(f"A column of type {kind} cannot be kept: leave it out.")


def _all_fit(values: Sequence[object], kind: pa.DataType) -> bool:
    """Return whether all values certainly have the type, judged by their Python types, which Arrow does not check
    strictly.
    """
    found = set(map(type, values)) - {NoneType}
    if types.is_list(kind):
        return found <= {list} and _all_fit([*chain.from_iterable(filter(None, values))], kind.value_type)  # type: ignore[arg-type]
    if not found <= {_PYTHON_TYPES.get(kind, int)}:
        return False
    if types.is_float32(kind):
        numbers = pa.array(values, pa.float64())
        small = pc.less_equal(pc.abs(numbers), MAX_FLOAT32)
        return bool(pc.all(pc.or_(small, pc.invert(pc.is_finite(numbers))), min_count=0).as_py())
    try:
        if not types.is_floating(kind):
            pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return False
    return True


def _fitting(kind: pa.DataType) -> Callable[[object], object]:
    """Return a function that returns a value of the type as it is kept, or raises _UnfitError."""
    if types.is_string(kind):
        return _fit_text
    if types.is_boolean(kind):
        return _fit_bool
    if types.is_integer(kind):
        bits = kind.bit_width
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if types.is_signed_integer(kind) else (0, 2**bits)
        return lambda value: _fit_integer(value, low, high)
    if types.is_floating(kind):
        return lambda value: _fit_float(value, MAX_FLOAT32 if types.is_float32(kind) else inf)
    assert types.is_list(kind)
    inner = _fitting(kind.value_type)
    return lambda value: _fit_list(value, inner)


def _fit_text(value: object) -> str:
    text = value if isinstance(value, str) else json_text(value)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _UnfitError from error
    return text


def _fit_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _UnfitError


def _fit_integer(value: object, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and low <= value < high:
        return value
    raise _UnfitError


def _fit_float(value: object, most: float) -> float:
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnfitError
    try:
        number = float(value)
    except OverflowError as error:
        raise _UnfitError from error
    if (isfinite(number) and abs(number) > most) or (isinstance(value, int) and number != value):
        raise _UnfitError
    return number


def _fit_list(value: object, inner: Callable[[object], object]) -> list[object]:
    if not isinstance(value, list):
        raise _UnfitError
    return [None if item is None else inner(item) for item in value]


_JSON = strict_json.Encoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)
