"""The recipe's names for the types of a link list's columns, and how types are inferred from JSON values.

They are Arrow's names for integers, floating-point numbers, booleans and texts, and list<…> of those; values of any
other type become text. The same plain types are in dataset/recipe/extra_columns.py; a test compares the two.
"""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.types as types

PLAIN_TYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double", "string"}
)
_LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)


def type_name(kind: pa.DataType) -> str | None:
    """Return the recipe's name for a column's type; None if the type is not supported."""
    kind = _decoded(kind)
    if any(holds(kind) for holds in _LISTS):
        inner = type_name(kind.value_type)
        return None if inner is None else f"list<{inner}>"
    if types.is_float16(kind):
        return "float"
    if str(kind) in PLAIN_TYPES:
        return str(kind)
    return "string" if _can_be_text(kind) else None


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column can hold URLs or captions: texts, bytes, numbers and times can."""
    kind = _decoded(kind)
    return not types.is_nested(kind) and _can_be_text(kind)


def json_type(values: Iterable[object]) -> str | None:
    """Return the narrowest type that holds these JSON values; None if all are null or empty lists."""
    found: str | None = None
    for value in values:
        if value is not None:
            found = wider(found, _type_of(value))
            if found == "string":
                break
    return found


def wider(one: str | None, other: str | None) -> str | None:
    """Return the type that holds values of both JSON types; text if they differ in kind."""
    if one is None or other is None or one == other:
        return one if other is None else other
    if one.startswith("list<") and other.startswith("list<"):
        inner = wider(_inner(one), _inner(other))
        return f"list<{inner or ''}>"
    return "double" if {one, other} == {"int64", "double"} else "string"


def named(found: str | None) -> str:
    """Return a column's type from the type found in its values; text if nothing was found."""
    if found is not None and found.startswith("list<"):
        return f"list<{named(_inner(found))}>"
    return found or "string"


def _type_of(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int64" if -(2**63) <= value < 2**63 else "string"
        case float():
            return "double"
        case list():
            return f"list<{json_type(value) or ''}>"
        case _:
            return "string"


def _inner(kind: str) -> str | None:
    return kind[len("list<") : -1] or None


def _decoded(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values behind a dictionary, run-end or extension type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _decoded(kind.storage_type)
    return _decoded(kind.value_type) if types.is_dictionary(kind) or types.is_run_end_encoded(kind) else kind


def _can_be_text(kind: pa.DataType) -> bool:
    """Return whether a type can be written as text without loss: no unions, no two fields with the same name."""
    kind = _decoded(kind)
    if types.is_struct(kind):
        names = [field.name for field in kind]
        return len(set(names)) == len(names) and all(_can_be_text(field.type) for field in kind)
    if types.is_map(kind):
        return _can_be_text(kind.key_type) and _can_be_text(kind.item_type)
    if any(holds(kind) for holds in _LISTS):
        return _can_be_text(kind.value_type)
    return not types.is_union(kind) and not types.is_interval(kind)
