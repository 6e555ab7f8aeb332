"""Read JSON into frozen dataclasses; it is accepted only if it has exactly their fields and types.

Types: dataclasses, `tuple[T, ...]`, `Mapping[str, T]`, `T | None`, StrEnum, str, int, float, bool. A missing key, an
unknown key and a value of another type are errors that name the place, such as `files[3].rows`.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dataset import strict_json

Record = TypeVar("Record")


def to_json(record: Any) -> bytes:
    """Return a dataclass as indented JSON with a final newline; equal records give equal bytes."""
    return (strict_json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n").encode()


def from_json(kind: type[Record], data: bytes) -> Record:
    """Read a dataclass from JSON.

    Raises: ValueError when the text is not JSON of that dataclass; the message names the key.
    """
    try:
        record: Record = _read(kind, json.loads(data), "")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return record


def _read(kind: Any, value: Any, place: str) -> Any:
    if is_dataclass(kind):
        return _read_dataclass(kind, value, place)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _read(inner[0], value, place)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], item, f"{place}[{at}]") for at, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: _read(inner[1], item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
    if origin is None and kind is Any:
        return value
    if origin is None and isinstance(kind, type):
        if issubclass(kind, StrEnum) and value in list(kind):
            return kind(value)
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is kind:
            return _encodable(value, place) if isinstance(value, str) else value
    raise ValueError(f"{place or 'it'} is {strict_json.dumps(value)[:60]}")


def _encodable(text: str, place: str) -> str:
    if text != text.encode(errors="replace").decode():  # half a surrogate pair, which JSON can escape
        raise ValueError(f"{place or 'it'} is not UTF-8")
    return text


def _read_dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place or 'it'} is {strict_json.dumps(value)[:60]}")  # noqa: TRY004  # one kind of error
    wanted = [field.name for field in fields(kind)]
    for name in value:
        if name not in wanted:
            raise ValueError(f"the key {f'{place}.{name}'.lstrip('.')} is unknown")
    for name in wanted:
        if name not in value:
            raise ValueError(f"the key {f'{place}.{name}'.lstrip('.')} is missing")
    hints = _hints(kind)
    return kind(**{name: _read(hints[name], value[name], f"{place}.{name}".lstrip(".")) for name in wanted})


@cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields; Python evaluates their texts anew in each call."""
    return get_type_hints(kind)
