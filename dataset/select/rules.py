"""A rule: one DuckDB expression over the columns of a release, parsed and checked before anything is evaluated.

DuckDB's own parser makes the tree. Everything that is not on the lists below is refused: sub-queries, functions that
read files or settings, windows, lambdas, parameters. The statement around the expression must be the one that was built
here, so that no text can end it and begin another one. Source: json_serialize_sql; the names of classes and functions
are DuckDB 2's.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataset import strict_json
from dataset.select.errors import SelectError

MAX_CHARACTERS = 10_000
_CLASSES = frozenset(
    {"COMPARISON", "CONJUNCTION", "CONSTANT", "COLUMN_REF", "OPERATOR", "FUNCTION", "BETWEEN", "CASE", "CAST", "TYPE"}
)
_TYPES = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UBIGINT", "HUGEINT", "FLOAT", "DOUBLE", "VARCHAR", "DATE"}
    | {"TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"}
)
_OPERATORS = frozenset({"+", "-", "*", "/", "//", "%", "**", "^", "~~", "!~~", "~~*", "!~~*", "~~~", "||"})
_OF_NUMBERS = frozenset(
    {"abs", "ceil", "ceiling", "floor", "round", "sqrt", "ln", "log", "log2", "log10", "exp", "pow", "power", "sign"}
    | {"greatest", "least", "bit_count", "xor", "isnan", "isfinite", "isinf", "ifnull", "nullif", "hash"}
)
_OF_TEXTS = frozenset(
    {"lower", "upper", "length", "strlen", "len", "trim", "ltrim", "rtrim", "left", "right", "substring", "substr"}
    | {"split_part", "strip_accents", "contains", "starts_with", "prefix", "suffix", "ends_with", "position", "strpos"}
    | {"instr", "like_escape", "not_like_escape", "ilike_escape", "regexp_matches", "regexp_full_match"}
    | {"regexp_extract", "ascii", "unicode"}
)
_OF_LISTS_AND_TIMES = frozenset(
    {"list_contains", "list_has", "array_contains", "array_has", "list_has_any"}
    | {"year", "month", "day", "date_part", "date_trunc", "epoch"}
)
_FUNCTIONS = _OPERATORS | _OF_NUMBERS | _OF_TEXTS | _OF_LISTS_AND_TIMES
_DATABASE: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "512MB",
    "threads": "1",
}
_BEFORE = "SELECT 1 FROM rows WHERE (\n"


@dataclass(frozen=True, slots=True)
class Rule:
    """A checked expression in DuckDB's notation, and the columns that it reads, by their names in the release."""

    sql: str
    columns: tuple[str, ...]


class Matcher:
    """Evaluate a rule over tables; each thread needs its own matcher."""

    def __init__(self, rule: Rule) -> None:
        self._connection = _connect()
        self._rule = rule

    def matches(self, rows: pa.Table) -> pa.BooleanArray:
        """Return for which rows the expression is true, (N,) bool without nulls.

        Raises: SelectError when it cannot be evaluated.
        """
        import duckdb

        try:
            self._connection.register("rows", rows)
            query = f"SELECT coalesce(CAST(({self._rule.sql}) AS BOOLEAN), false) AS matches FROM rows"
            found = self._connection.sql(query).to_arrow_table()["matches"].combine_chunks()
        except duckdb.Error as error:
            raise SelectError(f"The expression cannot be evaluated ({_line(error)}): change --where.") from error
        return found


def parse_rule(text: str, columns: Collection[str]) -> Rule:
    """Check an expression; `columns` are those of the release, and `table.column` of its side tables.

    Raises: SelectError when it is not one expression, or contains anything that is not allowed.
    """
    if len(text) > MAX_CHARACTERS:
        raise SelectError(f"The expression has {len(text):,} characters, more than {MAX_CHARACTERS:,}: shorten it.")
    if text != text.encode(errors="replace").decode():
        raise SelectError("The expression is not UTF-8: correct --where.")
    connection = _connect()
    statement, around = _parse(connection, text), _parse(connection, "TRUE")
    if statement.get("error"):
        found = _line(_what_is_wrong(statement, text))
        raise SelectError(f"The expression {text!r} cannot be read ({found}): correct --where.")
    try:
        where = statement["statements"][0]["node"].pop("where_clause")
        around["statements"][0]["node"].pop("where_clause")
    except (KeyError, IndexError) as error:
        raise _not_one(text) from error
    if _without_places(statement) != _without_places(around):
        raise _not_one(text)
    known = {column.lower(): column for column in columns}
    used = [_check(node, known) for node in _nodes(where)]
    statement["statements"][0]["node"]["where_clause"] = where
    return Rule(
        _written(connection, statement).partition(" WHERE ")[2],
        tuple(dict.fromkeys(column for column in used if column)),
    )


def check_types(rule: Rule, schema: pa.Schema) -> None:
    """Evaluate the rule over a row of nulls.

    Raises: SelectError when it compares values of types that cannot be compared, or its result is not true or false.
    """
    nulls = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
    Matcher(rule).matches(nulls)
    connection = _connect()
    connection.register("rows", nulls)
    kind = connection.sql(f"SELECT typeof({rule.sql}) FROM rows").fetchall()[0][0]
    if kind != "BOOLEAN":
        raise SelectError(f"The expression {rule.sql} is a {kind}, not true or false: compare it with something.")


def _connect() -> Any:
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise SelectError(f"{error.name} is not installed: install Shoal with its extra [release].") from error
    connection = duckdb.connect(config=_DATABASE)
    connection.execute("SET lock_configuration = true")
    return connection


def _parse(connection: Any, text: str) -> dict[str, Any]:
    query = f"{_BEFORE}{text}\n)"
    try:
        found: dict[str, Any] = json.loads(connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    except (RecursionError, ValueError) as error:
        raise _too_deep() from error
    return found


def _written(connection: Any, statement: Mapping[str, Any]) -> str:
    import duckdb

    try:
        found = connection.execute("SELECT json_deserialize_sql(?)", [strict_json.dumps(statement)]).fetchall()
    except (RecursionError, duckdb.Error) as error:  # DuckDB can write deeper trees than it can read
        raise _too_deep() from error
    return str(found[0][0])


def _too_deep() -> SelectError:
    return SelectError("The expression is nested too deeply: simplify --where.")


def _what_is_wrong(statement: Mapping[str, Any], text: str) -> str:
    """Return DuckDB's message, unless it refers to the bracket that `_parse` adds."""
    position = int(statement.get("position", 0))
    return "it ends too early" if position >= len((_BEFORE + text).encode()) else str(statement["error_message"])


def _not_one(text: str) -> SelectError:
    return SelectError(f"{text!r} is not one expression: write a condition such as WIDTH >= 512 AND punsafe < 0.5.")


def _without_places(node: Any) -> Any:
    """Return a tree without the positions in its text."""
    if isinstance(node, Mapping):
        return {key: _without_places(value) for key, value in node.items() if not key.startswith("query_location")}
    return [_without_places(one) for one in node] if isinstance(node, list) else node


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a tree that have a class, without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "class" in node:
                yield node
            waiting += reversed([*node.values()])
        elif isinstance(node, list):
            waiting += reversed(node)


def _check(node: dict[str, Any], known: Mapping[str, str]) -> str | None:
    """Return the column that a node reads, or None; the name is changed to the release's spelling.

    Raises: SelectError when the node is not allowed.
    """
    kind = node["class"]
    if kind not in _CLASSES:
        raise SelectError(f"The expression has a {kind.lower()}, which is not allowed: use comparisons of columns.")
    if kind == "FUNCTION" and node["function_name"].lower() not in _FUNCTIONS:
        raise SelectError(
            f"The function {node['function_name']} is not allowed: use comparisons, LIKE, IN, lower, length, contains, "
            "regexp_matches and the like."
        )
    if kind == "FUNCTION" and (node.get("schema") or node.get("catalog") or node.get("filter")):
        raise SelectError(f"The function {node['function_name']} is not allowed in this form: call it by its name.")
    if kind == "TYPE" and node["type_name"].upper() not in _TYPES:
        raise SelectError(f"The type {node['type_name']} is not allowed: cast to INTEGER, DOUBLE, VARCHAR or DATE.")
    if kind != "COLUMN_REF":
        return None
    name = ".".join(node["column_names"])
    if name.lower() not in known:
        raise SelectError(f"The release has no column {name}, only {', '.join(sorted(known.values()))}.")
    node["column_names"] = [known[name.lower()]]
    return known[name.lower()]


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
