"""Write JSON that every reader accepts.

Invariant: NaN and the infinities are written as null; Python's json writes words that are not JSON (RFC 8259, section
6). All JSON of this project is written here, or with `allow_nan=False`.
"""

import json
from typing import Any


class Encoder(json.JSONEncoder):
    """Python's encoder, with null for numbers that are not finite."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"allow_nan": False})

    def encode(self, value: Any) -> str:
        """Write a value as JSON."""
        try:
            return super().encode(value)
        except ValueError:
            return super().encode(_finite(value))


def dumps(value: Any, **options: Any) -> str:
    """Write a value as JSON; `options` are those of `json.dumps`."""
    return json.dumps(value, cls=Encoder, **options)


def _finite(value: Any) -> Any:
    """Copy a value with null for every number that is not finite."""
    match value:
        case float():
            return value if value - value == 0 else None
        case dict():
            return {name: _finite(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case _:
            return value
