"""Recall: the share of the nearest rows that a search found, where equal pictures are as right as one another."""

import numpy as np
import numpy.typing as npt
import pytest

from dataset.index.neighbours import recall_of


def rows(*pairs: tuple[int, float]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    return np.array([one for one, _ in pairs], np.int64), np.array([near for _, near in pairs], np.float32)


NEAREST = rows((7, 1.0), (1, 0.9), (2, 0.9), (3, 0.8), (4, 0.7))


@pytest.mark.parametrize(
    ("found", "most", "expected"),
    [
        (rows((7, 1.0), (1, 0.9), (2, 0.9), (3, 0.8)), 3, 1.0),
        (rows((7, 1.0), (1, 0.9), (3, 0.8), (4, 0.7)), 3, 2 / 3),
        (rows((1, 0.9), (3, 0.8), (4, 0.7)), 1, 1.0),
        (rows((3, 0.8), (1, 0.9)), 1, 0.0),
        (rows((8, 0.9), (9, 0.9), (10, 0.9)), 2, 1.0),  # copies of 1 and 2
        (rows(), 3, 0.0),
    ],
)
def test_recall_counts_rows_as_similar_as_the_nearest(
    found: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], most: int, expected: float
) -> None:
    assert recall_of(found, NEAREST, 7, most) == pytest.approx(expected)


def test_a_query_without_neighbours_has_no_recall() -> None:
    assert recall_of(rows((7, 1.0)), rows((7, 1.0)), 7, 10) is None
