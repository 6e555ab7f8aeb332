"""The columns of rows as an index keeps them: numbers and short values at a fixed width, texts in frames.

| kind in the record | of | null |
|---|---|---|
| `<i4`, `<i8` … | integers | the smallest value |
| `<f4`, `<f8` | floats | NaN |
| `|i1` of a bool, as `bool` | booleans | −1 |
| `S8` | LANGUAGE: short ASCII | '' |
| `hexN` | a digest of N bytes, as hex outside | zeros |
| `timestamp` | milliseconds since 1970, UTC | the smallest value |
| `<u2` with an entry in `categories` | one of few texts known at planning | 65535 |

Everything else is a text: other strings as they are, lists and structs as JSON.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset import strict_json

NAMES = {"URL": "url", "TEXT": "caption"}
"""clip-retrieval's names for columns of a release."""
_NO_CATEGORY = 65535
_HEX = {"sha256": 32}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def layout(schema: pa.Schema, categories: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the kinds of the columns of fixed width, and the names of the texts; `id` is left out."""
    numbers: dict[str, str] = {}
    texts = []
    for field in schema:
        kind = _kind(field, categories)
        if field.name == "id":
            continue
        if kind:
            numbers[field.name] = kind
        else:
            texts.append(field.name)
    return numbers, tuple(texts)


def _kind(field: pa.Field, categories: Mapping[str, tuple[str, ...]]) -> str | None:
    kind, types = field.type, pa.types
    if field.name in categories:
        return "<u2"
    if field.name == "LANGUAGE" and types.is_string(kind):
        return "S8"
    if field.name in _HEX and types.is_string(kind):
        return f"hex{_HEX[field.name]}"
    if types.is_fixed_size_binary(kind):
        return f"hex{kind.byte_width}"
    if types.is_timestamp(kind):
        return "timestamp"
    if types.is_boolean(kind):
        return "bool"
    if types.is_uint64(kind):
        return None  # half of its values have no int64
    if types.is_integer(kind):
        return f"<i{min(8, kind.bit_width // 8 * (2 if types.is_unsigned_integer(kind) else 1))}"
    if types.is_floating(kind):
        return "<f8" if kind.bit_width == 64 else "<f4"
    return None


def record_type(numbers: Mapping[str, str]) -> np.dtype[np.void]:
    """Return the numpy type of a row's numbers."""
    return np.dtype([(name, _numpy_type(kind)) for name, kind in numbers.items()])


def _numpy_type(kind: str) -> str:
    if kind.startswith("hex"):
        return f"V{kind[3:]}"
    return {"bool": "|i1", "timestamp": "<i8"}.get(kind, kind)


def pack_numbers(
    rows: pa.Table, numbers: Mapping[str, str], categories: Mapping[str, tuple[str, ...]]
) -> npt.NDArray[np.void]:
    """Return the numbers of rows -> (N,) records."""
    packed = np.zeros(len(rows), record_type(numbers))
    for name, kind in numbers.items():
        packed[name] = _packed(rows[name].combine_chunks(), kind, categories.get(name))
    return packed


def _packed(column: Any, kind: str, values: tuple[str, ...] | None) -> npt.NDArray[Any]:
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if values is not None:
        at = pc.index_in(column, pa.array(values, pa.string()))
        return np.asarray(pc.fill_null(at, _NO_CATEGORY)).astype("<u2")
    if kind.startswith("hex"):
        size = int(kind[3:])
        texts = column.to_pylist()
        data = b"".join(_digest(text, size) for text in texts)
        return np.frombuffer(data, f"V{size}")
    if kind == "S8":
        return np.array([(text or "").encode("ascii", "replace")[:8] for text in column.to_pylist()], "S8")
    if kind == "bool":
        return np.asarray(pc.fill_null(column.cast(pa.int8()), -1))
    if kind == "timestamp":
        column = column.cast(pa.timestamp("ms", column.type.tz)).cast(pa.int64())
        kind = "<i8"
    wanted = np.dtype(kind)
    if wanted.kind == "f":
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False)).astype(wanted)
    return np.asarray(pc.fill_null(column.cast(pa.int64(), safe=False), np.iinfo(wanted).min)).astype(wanted)


def _digest(value: str | bytes | None, size: int) -> bytes:
    if isinstance(value, str):
        try:
            value = bytes.fromhex(value)
        except ValueError:
            value = b""
    return value if value is not None and len(value) == size else bytes(size)


def pack_texts(rows: pa.Table, texts: tuple[str, ...]) -> list[list[str | None]]:
    """Return the texts of rows by column."""
    return [[_text(value) for value in rows[name].to_pylist()] for name in texts]


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.hex() if isinstance(value, bytes) else strict_json.dumps(value, default=str)


def unpack_numbers(
    records: npt.NDArray[np.void], numbers: Mapping[str, str], categories: Mapping[str, tuple[str, ...]]
) -> dict[str, list[Any]]:
    """Return the numbers of rows by column, None for a null; `records` are (n,) of `record_type`."""
    return {name: _unpacked(records[name], kind, categories.get(name)) for name, kind in numbers.items()}


def _unpacked(column: npt.NDArray[Any], kind: str, values: tuple[str, ...] | None) -> list[Any]:
    found = column.tolist()
    if values is not None:
        return [values[one] if one < len(values) else None for one in found]
    if kind.startswith("hex"):
        return [one.hex() if any(one) else None for one in found]
    if kind == "S8":
        return [one.decode("ascii", "replace") or None for one in found]
    if kind == "bool":
        return [None if one < 0 else bool(one) for one in found]
    if kind.startswith("<f"):
        return [None if one != one else one for one in found]
    null = np.iinfo(np.dtype("<i8" if kind == "timestamp" else kind)).min
    if kind == "timestamp":
        return [None if one == null else (_EPOCH + timedelta(milliseconds=one)).isoformat() for one in found]
    return [None if one == null else one for one in found]
