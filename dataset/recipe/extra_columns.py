"""Extra columns: a link list's columns besides URL and caption, which are carried into the shard.

Invariant: numbers, booleans, texts and lists of these come back unchanged, in their type. Other values (times,
decimals, structs, bytes) come back as text, see `json_columns`. The recipe names the types. In the pool a row's values
are one JSON object without nulls, '' if it is empty, because JSON preserves integers of any size and floats to the last
bit. Packed values can always be unpacked: a value of another type becomes null.

Rejected: an Arrow buffer per row (300 bytes of schema for 20 of data), and jsonb in the pool (it cannot store NUL, and
a draw takes twice as long as with text).
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.recipe.json_columns import finite_or_not, fit, named_if_not_finite

PLAIN_TYPES = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
}
"""By Arrow's names. `tracker.seeding.list_types` has the same names; a test compares the two."""


LIST_PREFIX = "list_"
"""Prefix of a list's column whose name the file uses itself: a list's `width` is the list's claim, a shard's is
measured."""


class ExtraError(DatasetError):
    """A column cannot be carried along, or the carried values do not match the recipe."""


def arrow_type(name: object) -> pa.DataType:
    """Return the type that the recipe calls `name`: Arrow's name of a plain type, or list<…> of one.

    Raises: ExtraError for any other name.
    """
    if isinstance(name, str) and name.startswith("list<") and name.endswith(">"):
        return pa.list_(arrow_type(name[len("list<") : -1]))
    if isinstance(name, str) and name in PLAIN_TYPES:
        return PLAIN_TYPES[name]
    raise ExtraError(f"{strict_json.dumps(name)} is not a type; use {', '.join(PLAIN_TYPES)}, or list<…> of one")


def type_name(kind: pa.DataType) -> str:
    """Return the name of a type, as arrow_type reads it."""
    return f"list<{type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def list_names(names: Iterable[str], own: Collection[str]) -> dict[str, str]:
    """Return the names of a list's columns in a file with the columns `own`, by their names in the list.

    A column keeps its name unless `own` has it, in upper or lower case (DuckDB does not distinguish them); then it gets
    LIST_PREFIX. A name that begins with the prefix gets it, too, so no two columns get the same name.
    """
    taken = {name.lower() for name in own}
    return {name: LIST_PREFIX + name if _is_taken(name.lower(), taken) else name for name in names}


def list_fields(types: Mapping[str, str], own: Collection[str]) -> list[pa.Field]:
    """Return the fields of a list's columns in a file with the columns `own`, in the order of `types`."""
    return [pa.field(name, arrow_type(types[given])) for given, name in list_names(types, own).items()]


def pack_extra(
    columns: Mapping[str, Sequence[object]], types: Mapping[str, str], rows: int, fitting: Collection[str] = ()
) -> tuple[pa.Array, int]:
    """Pack columns of JSON values into one JSON object per row, without nulls, as (N,) string; '' for an empty row.

    Also return the number of values that did not have their column's type and became null. The columns `fitting` are
    known to have theirs.
    """
    if not types:
        return pa.array([""] * rows, pa.string()), 0
    names = list(types)
    kept = [(columns[name], 0) if name in fitting else fit(columns[name], arrow_type(types[name])) for name in names]
    values = zip(*(column for column, _ in kept), strict=True)
    packed = pa.array([_pack_row(names, row) for row in values], pa.string())
    return packed, sum(lost for _, lost in kept)


def unpack_extra(rows: Sequence[str], types: Mapping[str, str]) -> dict[str, pa.Array]:
    """Return the columns, in the order of `types`; null where a row has no value or one of another type.

    Raises: ExtraError when a row is not a JSON object.
    """
    values = [_unpack_row(row) for row in rows]
    return {
        name: pa.array(fit([row.get(name) for row in values], arrow_type(kind))[0], arrow_type(kind))
        for name, kind in types.items()
    }


def unpack_one(row: str, types: Mapping[str, str]) -> dict[str, object]:
    """Return one row's values by name; None for missing ones."""
    values = _unpack_row(row)
    return {
        name: finite_or_not(values.get(name)) if _is_float(kind) else values.get(name) for name, kind in types.items()
    }


def _is_taken(name: str, taken: Collection[str]) -> bool:
    return name in taken or name.startswith(LIST_PREFIX)


def _pack_row(names: Sequence[str], values: Sequence[object]) -> str:
    row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    if not row:
        return ""
    try:
        return _JSON.encode(row)
    except ValueError:
        return _JSON.encode({name: named_if_not_finite(value) for name, value in row.items()})


def _unpack_row(row: str) -> dict[str, object]:
    try:
        values = json.loads(row) if row else {}
    except ValueError as error:
        raise ExtraError(f"A link's extra columns are not JSON ({error}): seed its list again.") from error
    if not isinstance(values, dict):
        raise ExtraError("A link's extra columns are not a JSON object: seed its list again.")
    return values


def _is_float(kind: str) -> bool:
    return kind.rpartition("<")[2].rstrip(">") in ("float", "double")


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)
