"""Rows drawn at random from all files, with the same result on every machine: for training, and as held-out queries.

Each file gives its share of the rows. If less than an eighth of a file is drawn, it is drawn in runs of RUN_ROWS
neighbours, so that 67 million rows of 6 billion are 2 million reads, not 67 million.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

RUN_ROWS = 32
_SPARSE = 8


def shares(rows: Sequence[int], wanted: int) -> list[int]:
    """Divide `wanted` rows among files in proportion to their rows; no file gives more than it has."""
    total = sum(rows)
    wanted = min(wanted, total)
    ends = np.cumsum([0, *rows], dtype=object) * wanted // max(1, total)
    return [int(one) for one in np.diff(ends)]


def draw_rows(rows: int, wanted: int, seed: Sequence[int]) -> Integers:
    """Return `wanted` different rows of a file in a random order -> (wanted,) int64."""
    draw = np.random.default_rng(list(seed))
    if wanted * _SPARSE >= rows or rows < RUN_ROWS * _SPARSE:
        return draw.permutation(rows)[:wanted]
    starts = draw.choice(rows // RUN_ROWS, -(-wanted // RUN_ROWS), replace=False) * RUN_ROWS
    return (starts[:, None] + np.arange(RUN_ROWS)).reshape(-1)[:wanted]
