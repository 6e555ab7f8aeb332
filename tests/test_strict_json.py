"""All JSON that is written is valid for every reader: it has no NaN and no Infinity."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset import strict_json
from tracker import strict_json as trackers

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("dataset", "tracker", "workers", "docker") for path in (ROOT / folder).rglob("*.py")]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


def finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return {name: finite(inner) for name, inner in value.items()} if isinstance(value, dict) else value


@given(VALUES)
def test_every_value_is_written_as_json_with_null_for_what_is_not_finite(value: Any) -> None:
    for written in (strict_json.dumps(value), strict_json.Encoder(ensure_ascii=False).encode(value)):
        assert json.loads(written, parse_constant=refuse) == finite(value)
    assert json.loads(strict_json.dumps((value,), indent=1), parse_constant=refuse) == [finite(value)]


def test_the_trackers_copy_is_the_same() -> None:
    assert strict_json.__file__
    assert trackers.__file__
    assert Path(strict_json.__file__).read_bytes() == Path(trackers.__file__).read_bytes()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_writes_json_that_python_alone_can_read(path: Path) -> None:
    if path.name == "strict_json.py":
        return
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module == "json":
            assert not {name.name for name in node.names} & {"dump", "dumps", "JSONEncoder"}, node.lineno
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dump", "json.dumps", "json.JSONEncoder"):
            assert any(ast.unparse(option) == "allow_nan=False" for option in node.keywords), node.lineno
