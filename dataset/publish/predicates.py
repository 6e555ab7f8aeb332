"""The predicate of a variant, such as `punsafe < 0.45 AND WIDTH >= 512`: comparisons of one column with one number.

It is checked when it is read, not when it is applied. `dataset select` has SQL for everything else. A row without a
value is left out, because it is unknown whether it belongs to the variant.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.releases import MAX_NAME, FileKind
from dataset.publish.errors import PublishError

COLUMNS = ("WIDTH", "HEIGHT", "similarity", "pwatermark", "punsafe", "aesthetic")
_OPERATORS: dict[str, Callable[..., Any]] = {
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "=": pc.equal,
}
_COMPARISON = re.compile(r"\s*(\w+)\s*(<=|>=|<|>|=)\s*([-+]?\d+(?:\.\d+)?)\s*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column, an operator and a number."""

    column: str
    operator: str
    number: float


def parse_variant(text: str) -> tuple[str, str]:
    """Read `NAME=PREDICATE` -> (name, predicate).

    Raises: PublishError when it does not have this form, or the predicate cannot be used.
    """
    name, equals, predicate = text.partition("=")
    if not equals or not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise PublishError(f"The variant {text[:MAX_NAME]!r} has no name: write NAME='punsafe < 0.45'.")
    if name == FileKind.EXTENDED:
        raise PublishError(
            f"A variant cannot have the name {name}, which is the name of the extended columns: choose another."
        )
    parse_predicate(predicate)
    return name, predicate.strip()


def parse_predicate(text: str) -> list[Comparison]:
    """Read comparisons that are joined by AND.

    Raises: PublishError when it contains anything else, or a column that the data files do not have.
    """
    found = [_COMPARISON.fullmatch(piece) for piece in re.split(r"(?i)\s+and\s+", text)]
    comparisons = [Comparison(match[1], match[2], float(match[3])) for match in found if match]
    if len(comparisons) < len(found) or any(one.column not in COLUMNS for one in comparisons):
        raise PublishError(
            f"The predicate {text!r} cannot be used: compare one of {', '.join(COLUMNS)} with a number by <, <=, >, >= "
            "or =, and join comparisons by AND."
        )
    return comparisons


def filter_rows(rows: pa.Table, predicate: list[Comparison]) -> pa.Table:
    """Return the rows for which all comparisons hold."""
    for one in predicate:
        if one.column not in rows.column_names:
            return rows.slice(0, 0)
        column = rows[one.column]
        rows = rows.filter(_OPERATORS[one.operator](column, pa.scalar(one.number, pa.float64()).cast(column.type)
                           if pa.types.is_floating(column.type) else pa.scalar(one.number)))  # fmt: skip
    return rows
