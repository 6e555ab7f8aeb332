"""Merging counts in any order gives the same as one pass, and saving them does not change them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.stats.counts import COLUMNS, MAX_VALUE, Counts
from dataset.stats.gather import count_batches
from dataset.stats.hyperloglog import estimate
from dataset.stats.saved import SavedCountsError, bytes_to_counts, counts_to_bytes
from tests.laion_rows import laion_rows

SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("LANGUAGE", pa.string()),
        ("similarity", pa.float64()),
        ("pwatermark", pa.float32()),
        ("punsafe", pa.float32()),
        ("aesthetic", pa.float32()),
        ("sha256", pa.string()),
    ]
)

floats = st.none() | st.floats(width=32)
texts = st.none() | st.text(max_size=20)
sides = st.none() | st.integers(-5, 2**31 - 1)
rows = st.fixed_dictionaries(
    {
        "URL": st.none()
        | st.sampled_from(["http://a/1", "https://B.example:8080/x?y", "ftp://c/", "", "no url", "http://[::1"]),
        "TEXT": texts,
        "WIDTH": sides,
        "HEIGHT": sides,
        "LANGUAGE": st.none() | st.sampled_from(["en", "de", "ja"]),
        "similarity": st.none() | st.floats(),
        "pwatermark": floats,
        "punsafe": floats,
        "aesthetic": floats,
        "sha256": st.none() | st.sampled_from(["ab" * 32, "cd" * 32]),
    }
)
tables = st.lists(rows, max_size=12)


def counts_of(some: list[dict[str, Any]]) -> Counts:
    return count_batches(pa.Table.from_pylist(some, SCHEMA).to_batches(), "multi")


@settings(deadline=None, max_examples=25)
@given(tables, tables, tables)
def test_merging_is_associative_and_commutative_and_equals_one_pass(a: Any, b: Any, c: Any) -> None:
    one, two, three = counts_of(a), counts_of(b), counts_of(c)
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one
    assert (one + two) + three == counts_of(a + b + c)


@settings(deadline=None, max_examples=15)
@given(tables)
def test_counts_survive_a_file(some: Any) -> None:
    counts = counts_of(some)
    data = counts_to_bytes(counts, "0" * 64)
    assert bytes_to_counts(data, "0" * 64) == counts
    assert counts_to_bytes(bytes_to_counts(data, "0" * 64), "0" * 64) == data


def test_the_file_of_a_million_rows_is_small() -> None:
    data = counts_to_bytes(count_batches(laion_rows(100_000).to_batches(), "multi"), "0" * 64)
    assert len(data) < 150_000


def test_every_damaged_byte_is_noticed() -> None:
    data = counts_to_bytes(counts_of([]), "0" * 64)
    for at in range(0, len(data), max(1, len(data) // 300)):
        damaged = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        with pytest.raises(SavedCountsError, match="count"):
            bytes_to_counts(damaged, "0" * 64)


@pytest.mark.parametrize("length", [0, 5, 24, 100])
def test_a_file_that_is_cut_off_is_one_sentence(length: int) -> None:
    with pytest.raises(SavedCountsError, match="delete the file"):
        bytes_to_counts(counts_to_bytes(counts_of([]), "0" * 64)[:length], "0" * 64)


def test_counts_of_another_version_of_the_data_are_refused() -> None:
    with pytest.raises(SavedCountsError, match="another version"):
        bytes_to_counts(counts_to_bytes(counts_of([]), "0" * 64), "1" * 64)


def row(**values: Any) -> dict[str, Any]:
    return {name: values.get(name) for name in SCHEMA.names}


def test_sizes_beyond_the_array_count_at_its_end() -> None:
    counts = counts_of([row(WIDTH=70_000, HEIGHT=1), row(WIDTH=0, HEIGHT=0)])
    assert counts.arrays["width"][MAX_VALUE] == 1
    assert counts.arrays["width"][0] == 1
    assert counts.arrays["aspect"].sum() == 1


def test_a_threshold_is_exceeded_only_above_it_in_the_columns_own_type() -> None:
    values = [0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.49999]
    assert counts_of([row(punsafe=value) for value in values]).arrays["above"].tolist() == [1, 0]
    marks = [0.8, np.nextafter(np.float32(0.8), np.float32(1))]  # as float32, 0.8 is a little more than 0.8
    assert counts_of([row(pwatermark=value) for value in marks]).arrays["above"].tolist() == [0, 1]


def test_nulls_and_nans_are_counted_apart_and_are_no_values() -> None:
    counts = counts_of([row(punsafe=float("nan")), row(), row(punsafe=0.25)])
    assert counts.arrays["punsafe"].sum() == 1
    assert counts.arrays["punsafe"][2_500] == 1
    assert counts.arrays["columns"][COLUMNS.index("punsafe")].tolist() == [3, 1, 1]


def test_infinite_values_count_at_the_ends() -> None:
    counts = counts_of([row(similarity=float("inf")), row(similarity=float("-inf"))])
    assert counts.arrays["similarity"][[0, -1]].tolist() == [1, 1]


def test_the_subset_says_the_language_where_no_column_does() -> None:
    table = pa.table({"TEXT": ["a", "b"]})
    assert {name: each.rows for name, each in count_batches(table.to_batches(), "en").languages.items()} == {"en": 2}
    assert {name: each.rows for name, each in count_batches(table.to_batches(), "nolang").languages.items()} == {"": 2}
    assert count_batches(table.to_batches(), "").languages == {}


def test_distinct_counts_are_the_same_in_any_order_of_work() -> None:
    whole = laion_rows(30_000)
    halves = [count_batches(whole.slice(start, 15_000).to_batches(), "multi") for start in (0, 15_000)]
    merged = halves[0] + halves[1]
    once = count_batches(whole.to_batches(), "multi")
    for name in ("URL", "TEXT", "host"):
        assert estimate(merged.distinct[name]) == estimate(once.distinct[name])
