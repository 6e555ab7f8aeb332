"""Finding keys among sorted ones without sorting them."""

import numpy as np
import numpy.typing as npt
import pytest

from dataset.side_tables.places import HashKeys, IdKeys, find_sorted

LAST = 2**63 - 1
DRAW = np.random.default_rng(7)
KNOWN = {
    "uniform": DRAW.integers(-(2**63), LAST, 5_000),
    "the ends of int64": np.array([-(2**63), -(2**63) + 1, -1, 0, 1, LAST - 1, LAST]),
    "crowded": np.concatenate((np.arange(1_000), [LAST])),
    "one": np.array([5]),
    "none": np.empty(0, np.int64),
}


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_keys_are_found_where_a_set_says_they_are(known: npt.NDArray[np.int64]) -> None:
    known = np.unique(known)
    others = DRAW.integers(-(2**63), LAST, 300)
    ends = np.array([-(2**63), LAST, 0])
    keys = DRAW.permutation(np.concatenate((known, known[:50], known[:50] - 1, others, ends)))
    found = find_sorted(known, keys)
    place = {value: at for at, value in enumerate(known.tolist())}
    expected = [(at, place[key]) for at, key in enumerate(keys.tolist()) if key in place]
    assert list(zip(found.keys.tolist(), found.places.tolist(), strict=True)) == expected


def test_sections_of_hashes_are_in_signed_order_and_ids_outside_of_files_in_none() -> None:
    keys = HashKeys(None, [], 3)  # type: ignore[arg-type]  # the release is not asked
    hashes = np.array([-(2**63), -1, 0, LAST])
    assert keys.section_of(hashes).tolist() == [0, 3, 4, 7]
    assert HashKeys(None, [], 0).section_of(hashes).tolist() == [0, 0, 0, 0]  # type: ignore[arg-type]
    ids = IdKeys(np.array([0, 10, 30]), np.array([10, 20, 40]))
    assert ids.section_of(np.array([-1, 0, 9, 10, 20, 29, 39, 40])).tolist() == [3, 0, 0, 1, 3, 3, 2, 3]
