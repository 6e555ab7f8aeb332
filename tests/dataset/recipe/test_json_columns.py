"""A link list's column of any Arrow type is kept unchanged, kept as text, or becomes null and is counted; there is no
other case.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.recipe.extra_columns import PLAIN_TYPES, arrow_type, pack_extra, unpack_extra
from dataset.recipe.json_columns import ColumnTypeError, fit, json_values
from tracker.seeding import list_types
from tracker.seeding.list_types import type_name

Values = st.SearchStrategy[Any]


def whole(bits: int, *, signed: bool = True) -> Values:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


PLAIN: dict[pa.DataType, Values] = {
    pa.bool_(): st.booleans(),
    **{getattr(pa, f"int{bits}")(): whole(bits) for bits in (8, 16, 32, 64)},
    **{getattr(pa, f"uint{bits}")(): whole(bits, signed=False) for bits in (8, 16, 32, 64)},
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): st.text(),
}
COUNTED: dict[pa.DataType, int] = {  # made of whole numbers of so many bits
    pa.date32(): 32,
    pa.date64(): 64,
    pa.time32("s"): 32,
    pa.time64("ns"): 64,
    **{pa.timestamp(unit): 64 for unit in ("s", "ms", "us", "ns")},
    pa.timestamp("us", "Europe/Berlin"): 64,
    pa.duration("ns"): 64,
}
OTHERS: dict[pa.DataType, Values] = {
    pa.null(): st.none(),
    pa.float16(): st.floats(width=16),
    pa.large_string(): st.text(),
    pa.string_view(): st.text(),
    pa.binary(): st.binary(),
    pa.large_binary(): st.binary(),
    pa.binary_view(): st.binary(),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal128(12, 3): st.decimals(-(10**9) + 1, 10**9 - 1, places=3),
}


def column_of(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if kind in COUNTED:
        return pa.array(values, pa.int32() if COUNTED[kind] == 32 else pa.int64()).view(kind)
    return pa.array(values, kind)


@st.composite
def leaves(draw: st.DrawFn, size: int) -> pa.Array:
    values = PLAIN | OTHERS | {kind: whole(bits) for kind, bits in COUNTED.items()}
    kind = draw(st.sampled_from(list(values)))
    return column_of(kind, draw(st.lists(st.none() | values[kind], min_size=size, max_size=size)))


def as_list(items: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays([0, 1, 1, 4], items)


def as_dictionary(items: pa.Array) -> pa.Array:
    return items if pa.types.is_null(items.type) or "view" in str(items.type) else items.dictionary_encode()


NESTED: dict[str, Callable[[pa.Array], pa.Array]] = {
    "as it is": lambda items: items,
    "a slice": lambda items: items[1:3],
    "dictionary": as_dictionary,
    "list": as_list,
    "list with a null": lambda items: pa.concat_arrays([as_list(items), pa.nulls(1, pa.list_(items.type))])[1:],
    "large_list": lambda items: pa.LargeListArray.from_arrays([0, 2, 4], items),
    "list of two": lambda items: pa.FixedSizeListArray.from_arrays(items, 2),
    "list_view": lambda items: pa.ListViewArray.from_arrays([2, 0], [2, 2], items),
    "list of lists": lambda items: pa.ListArray.from_arrays([0, 2, 3], as_list(items)),
    "struct": lambda items: pa.StructArray.from_arrays([items, pa.array(range(4))], ["item", "number"]),
    "list of structs": lambda items: as_list(pa.StructArray.from_arrays([items], ["item"])),
    "map": lambda items: pa.MapArray.from_arrays([0, 2, 4], pa.array(["a", "a", "b", "ü"]), items),
}


@given(st.sampled_from(list(NESTED)), leaves(4))
def test_every_type_nested_once_comes_back_in_its_type_or_as_text(nesting: str, items: pa.Array) -> None:
    column = NESTED[nesting](items)
    kind = type_name(column.type)
    assert kind is not None
    values, unread = json_values(column)
    packed, unfit = pack_extra({"c": values}, {"c": kind}, len(column))
    for row in packed.to_pylist():
        assert "\0" not in row
        json.loads(row or "{}", parse_constant=pytest.fail)  # NaN is no JSON
    back = unpack_extra(packed.to_pylist(), {"c": kind})["c"]
    assert back.type == arrow_type(kind)
    assert unfit == 0
    if unread == 0:
        assert [value is None for value in back.to_pylist()] == pc.is_null(column).to_pylist()
    if items.type in PLAIN and nesting not in ("struct", "list of structs", "map"):
        assert str(back.to_pylist()) == str(column.to_pylist())  # by their spelling: NaN equals nothing


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([0], pa.timestamp("s")), ["1970-01-01 00:00:00"]),
        (pa.array([1], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001"]),
        (pa.array([0], pa.timestamp("us", "Europe/Berlin")), ["1970-01-01 00:00:00.000000Z"]),
        (pa.array([2**31 - 1], pa.int32()).view(pa.date32()), [None]),
        (pa.array([86_399], pa.int32()).view(pa.time32("s")), ["23:59:59"]),
        (pa.array([1_500], pa.duration("ms")), ["1500 ms"]),
        (pa.array([Decimal("1.50"), None]), ["1.50", None]),
        (pa.array([b"\x01\xff"]), ["01ff"]),
        (pa.array([{"a": 1, "b": [float("nan")]}]), ['{"a":1,"b":[null]}']),
        (pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int32())), ['[["k",1],["k",2]]']),
    ],
)
def test_what_json_has_no_type_for_comes_as_text(column: pa.Array, texts: list[str | None]) -> None:
    values, lost = json_values(column)
    assert type_name(column.type) == "string"
    assert fit(values, pa.string()) == (texts, 0)
    assert lost == (texts == [None])


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([1, 0.75, 2.0, True, "3"], "int64", [1, None, 2, None, None]),
        ([2**63, -1, 2**64], "uint64", [2**63, None, None]),
        ([1, 2**53 + 1, 0.5, "NaN", "x"], "double", [1.0, None, 0.5, float("nan"), None]),
        ([1e300, 0.5], "float", [None, 0.5]),
        ([True, 1], "bool", [True, None]),
        (["a", 1, [1], {"b": None}, "\ud83d"], "string", ["a", "1", "[1]", '{"b":null}', None]),
        ([[1], [0.5], 1, [None], []], "list<int64>", [[1], None, None, [None], []]),
    ],
)
def test_a_value_of_another_type_becomes_null_and_is_counted(values: list[Any], kind: str, kept: list[Any]) -> None:
    found, lost = fit(values, arrow_type(kind))
    assert str(list(found)) == str(kept)
    assert lost == kept.count(None)


def test_a_text_that_is_not_utf8_becomes_null_and_is_counted() -> None:
    raw = pa.array([b"a", b"\xff", None])
    assert json_values(pa.Array.from_buffers(pa.string(), 3, raw.buffers())) == (["a", None, None], 1)


def test_what_has_no_text_is_refused_on_both_sides() -> None:
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    interval = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    for column in (union, interval):
        assert type_name(column.type) is None
        assert type_name(pa.list_(column.type)) is None
        with pytest.raises(ColumnTypeError, match="cannot be kept: leave it out"):
            json_values(column)
    assert type_name(pa.struct([("a", pa.int8()), ("a", pa.string())])) is None


def test_tracker_and_dataset_have_the_same_plain_types() -> None:
    assert set(PLAIN_TYPES) == list_types.PLAIN_TYPES
    assert all(type_name(kind) == name for name, kind in PLAIN_TYPES.items())
