"""Recall: the share of the nearest rows that a search found, where equal pictures are as right as one another."""

import numpy as np
import numpy.typing as npt
import pytest

from dataset.index import neighbours
from dataset.index.neighbours import NEIGHBOURS, SELECTIVITIES, NearestRows, passes, recall_of


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


@pytest.mark.parametrize("order_seed", [0, 1])
def test_the_nearest_rows_do_not_depend_on_the_order_of_rows(order_seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_ROWS", 300)  # more than NEIGHBOURS; a tenth is fewer
    draw = np.random.default_rng(0)
    rows = draw.integers(-2, 3, (2_000, 4)).astype(np.float16)  # so few values that many rows are equally near
    ids = draw.permutation(10_000)[:2_000]
    queries = draw.integers(-2, 3, (5, 4)).astype(np.float32)
    order = np.random.default_rng(order_seed).permutation(2_000)
    halves = [NearestRows(queries), NearestRows(queries)]
    for nearest, some in zip(halves, np.split(order, [700]), strict=True):
        nearest.add(ids[some], rows[some])
    halves[0].merge(halves[1].to_bytes())
    similarity = queries @ rows.astype(np.float32).T
    for at, selectivity in enumerate(SELECTIVITIES):
        here = np.flatnonzero(passes(ids, selectivity))
        for query, (found, near) in enumerate(halves[0].lists(at)):
            best = here[np.lexsort((ids[here], -similarity[query, here]))][:NEIGHBOURS]
            assert found.tolist() == ids[best].tolist()
            assert near.tolist() == similarity[query, best].tolist()
