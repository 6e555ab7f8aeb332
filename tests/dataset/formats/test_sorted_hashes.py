"""Read slices of a file of sorted hashes, by value."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.formats import sorted_hashes
from dataset.formats.sorted_hashes import SortedHashes
from dataset.store.store import Store

INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("hashes")))


@given(st.lists(INT64 | st.integers(-5, 5), max_size=60, unique=True), INT64 | st.integers(-6, 6), INT64)
def test_a_slice_has_the_values_between_its_ends_however_they_are_spread(
    store: Store, values: list[int], start: int, end: int
) -> None:
    start, end = sorted((start, end))
    store.put("hashes.i64", np.array(sorted(values), "<i8").tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_hashes, "_WINDOW", 2)
        found = SortedHashes(store, "hashes.i64").read(start, end)
    assert found.tolist() == [value for value in sorted(values) if start <= value < end]


def test_the_last_range_ends_behind_the_largest_value(store: Store, tmp_path: Path) -> None:
    store.put("all.i64", np.array([-(2**63), 0, 2**63 - 1], "<i8").tobytes())
    assert len(SortedHashes(store, "all.i64").read(-(2**63), 2**63)) == 3
