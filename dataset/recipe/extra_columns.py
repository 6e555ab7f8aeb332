"""Extra columns: what a finished list says of a link beside URL and caption, carried along into its shard.

Invariant: a value comes back as it was in the list, in its type, for numbers, booleans, texts and lists of those;
anything else (times, decimals, structs, bytes) comes as text: structs as JSON, bytes in hex. The recipe names the
types; on the way a row's values are one JSON object without its nulls, '' when none is left, since JSON keeps whole
numbers of any size and floating-point numbers to the last bit.

Rejected: an Arrow buffer a row (some 300 bytes of schema for 20 of data), and jsonb in the pool (it has no NaN, no NUL,
and costs the draw twice what text costs).
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from dataset import strict_json
from dataset.errors import DatasetError

_PLAIN = {
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


LIST_PREFIX = "list_"
"""Goes before a list's column whose name is one of the file's own: a list's `width` is what the list says, a shard's is
what came."""


class ExtraError(DatasetError):
    """A column cannot be carried along, or what was carried is not what the recipe says."""


def arrow_type(name: object) -> pa.DataType:
    """Give the type that the recipe calls `name`: Arrow's name of a plain type, or list<…> of one.

    Raises: ExtraError for any other.
    """
    if isinstance(name, str) and name.startswith("list<") and name.endswith(">"):
        return pa.list_(arrow_type(name[len("list<") : -1]))
    if isinstance(name, str) and name in _PLAIN:
        return _PLAIN[name]
    raise ExtraError(f"{strict_json.dumps(name)} is no type; use {', '.join(_PLAIN)}, or list<…> of one")


def list_names(names: Iterable[str], own: Collection[str]) -> dict[str, str]:
    """Return, by their names in a list, the names of its columns in a file that has the columns `own` itself.

    A column keeps its name, unless `own` has that name in upper or lower case (DuckDB does not tell them apart); then
    LIST_PREFIX goes before it. It also goes before a name that begins with it: so no two columns get one name.
    """
    taken = {name.lower() for name in own}
    return {name: LIST_PREFIX + name if _is_taken(name.lower(), taken) else name for name in names}


def list_fields(types: Mapping[str, str], own: Collection[str]) -> list[pa.Field]:
    """Return the columns that a list's values have in a file with the columns `own`, in the order of `types`."""
    return [pa.field(name, arrow_type(types[given])) for given, name in list_names(types, own).items()]


def pack_extra(columns: pa.Table) -> pa.Array:
    """Make one JSON object a row of the columns, nulls left out -> (N,) string, '' where nothing is left."""
    names = columns.column_names
    texts = [pa.types.is_string(column.type) or _is_other(column.type) for column in columns.columns]
    values = [
        [_as_text(value) for value in column.to_pylist()] if text else column.to_pylist()
        for text, column in zip(texts, columns.columns, strict=True)
    ]
    rows = zip(*values, strict=True) if names else ([()] * len(columns))
    return pa.array([_pack_row(names, row) for row in rows], pa.string())


def unpack_extra(rows: Sequence[str], types: Mapping[str, str]) -> dict[str, pa.Array]:
    """Make the columns again, in the order of `types`; null where a row has no value.

    Raises: ExtraError when a value is not of its column's type.
    """
    values = [json.loads(row) if row else {} for row in rows]
    try:
        return {name: pa.array([row.get(name) for row in values], arrow_type(kind)) for name, kind in types.items()}
    except (pa.ArrowException, TypeError, OverflowError, AttributeError) as error:
        raise ExtraError(f"A list's extra column is not of the type in the recipe ({error}): seed it anew.") from error


def _is_taken(name: str, taken: Collection[str]) -> bool:
    return name in taken or name.startswith(LIST_PREFIX)


def _pack_row(names: Sequence[str], values: Sequence[object]) -> str:
    row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return _JSON.encode(row) if row else ""


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.hex() if isinstance(value, bytes) else _JSON.encode(value) if isinstance(value, dict) else str(value)


def _is_other(kind: pa.DataType) -> bool:
    """Say whether a column of this type is carried as text."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return False
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind) not in _PLAIN


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


_JSON = strict_json.Encoder(ensure_ascii=False, separators=(",", ":"), default=_plain)
