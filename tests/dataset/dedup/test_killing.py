"""A search that is killed twice; `make kill-dedup` kills it in every kind of job."""

import random
from pathlib import Path

from dataset.dedup.run import search
from tests.dataset.dedup.killing import OPTIONS, copying, fill, kill_in_each
from tests.killing import digests


def test_killed_search_ends_with_the_same_bytes(tmp_path: Path) -> None:
    with copying(True):
        search(fill(tmp_path / "undisturbed"), OPTIONS)
    fill(tmp_path / "killed")
    killed = kill_in_each(tmp_path / "killed", random.Random(4), ("layout", "gather", "rest"), copied=True)
    assert sum(killed.values()) >= 1
    assert digests(tmp_path / "killed") == digests(tmp_path / "undisturbed")
