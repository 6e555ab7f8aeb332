"""An apply that is killed has the bytes of one that was not; `make kill-takedown` kills thirty times."""

import random
from pathlib import Path

from tests.dataset.takedown.killing import kill_and_compare


def test_an_apply_that_is_killed_at_random_moments_has_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    assert kill_and_compare(tmp_path, random.Random(7), 2) == 2
