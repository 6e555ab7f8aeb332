"""The check of near-duplicates fails when copies are missed, and when others are taken for copies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.releases import Release
from dataset.store.store import Store
from tests.demo.duplicate_checks import AT, check_duplicates, check_planted
from tests.demo.planting import Link
from tests.demo.plants import Pair, Plant
from tests.planted import MODEL, put_release


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Rows 0 to 29 are three equal ones each, ten others follow."""
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(20, 32))
    vectors = np.concatenate([np.repeat(rows[:10], 3, axis=0), rows[10:]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = put_release(Store.open(str(tmp_path)), "demo", [vectors.astype(np.float16)])
    search(made, Options(model=MODEL, at=AT))
    return made


def links(copies: Sequence[int | None]) -> list[Link]:
    return [
        Link(
            one,
            Plant.COPY,
            "host",
            f"https://host{one % 97}.example.com/{one}.jpg",
            "caption",
            "en",
            "success",
            Pair.MATCHED,
            of,
        )
        for one, of in enumerate(copies)
    ]


def test_checks_hold_when_all_copies_are_found(release: Release) -> None:
    checks = check_duplicates(links([one // 3 for one in range(30)] + [None] * 10), release)
    assert [check.holds for check in checks] == [True, True]
    assert checks[0].said.startswith("20 of 20")


def test_a_missed_copy_fails_recall(release: Release) -> None:
    recall, precision = check_duplicates(links([one // 3 for one in range(30)] + [11] * 10), release)
    assert (recall.holds, precision.holds) == (False, True)


def test_rows_that_are_no_copies_fail_precision(release: Release) -> None:
    recall, precision = check_duplicates(links([one // 3 for one in range(24)] + [None] * 16), release)
    assert (recall.holds, precision.holds) == (True, False)


def test_planted_edits_that_the_join_misses_fail() -> None:
    edit = {"is_copy": True, "pairs": 20, "at_threshold": 10, "at_threshold_found": 10, "found": 10}
    other = edit | {"is_copy": False, "at_threshold_found": 0}
    assert check_planted({"edits": [edit, other]}).holds
    assert not check_planted({"edits": [edit, edit | {"at_threshold_found": 8}]}).holds
    assert not check_planted({"edits": [other]}).holds
