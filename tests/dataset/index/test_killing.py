"""Changes of an index that are killed, in a short form; `make kill-index` kills 30 times."""

import random
from pathlib import Path

from tests.dataset.index.killing import kill_and_compare


def test_an_index_whose_changes_were_killed_has_the_same_bytes(tmp_path: Path) -> None:
    killed = kill_and_compare(tmp_path, random.Random(5), kills=2, steps=("rabitq", "delete"))
    assert set(killed.values()) == {1}
