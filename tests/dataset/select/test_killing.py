"""Steps after publish that are killed, in a short form; `make kill-select` kills 30 times."""

import random
from pathlib import Path

from tests.dataset.select.killing import kill_and_compare


def test_embeddings_tables_selections_and_tars_that_are_killed_end_with_the_same_bytes(tmp_path: Path) -> None:
    killed = kill_and_compare(tmp_path, random.Random(5), kills=4)
    assert set(killed.values()) == {1}
