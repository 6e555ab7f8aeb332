"""Lists: how many, of which rows, and how near their rows are."""

import numpy as np
import pytest

from dataset.index.gpu import cluster_on_device
from dataset.index.kinds import choose_kind, choose_lists
from dataset.index.projected import Centroids
from dataset.index.train import train_centroids
from dataset.index.training_rows import RUN_ROWS, draw_rows, shares


@pytest.mark.parametrize(
    ("rows", "kind", "lists"),
    [(100, "flat", 1), (19_999, "flat", 1), (20_000, "sq16", 512), (1_000_000, "sq16", 4_096),
     (2_000_000, "sq16", 4_096), (10_000_000, "rabitq", 2_048), (100_000_000, "rabitq", 32_768),
     (5_850_000_000, "rabitq", 2**20)],
)  # fmt: skip
def test_kind_and_lists_follow_the_number_of_rows(rows: int, kind: str, lists: int) -> None:
    assert choose_kind(rows) == kind
    assert choose_lists(kind, rows) == lists


def test_each_file_gives_its_share_and_no_row_twice() -> None:
    assert shares([100, 0, 300], 40) == [10, 0, 30]
    assert shares([5, 5], 100) == [5, 5]
    drawn = draw_rows(1_000, 300, (1, 2))
    assert len(set(drawn.tolist())) == 300
    assert np.array_equal(drawn, draw_rows(1_000, 300, (1, 2)))
    assert not np.array_equal(drawn, draw_rows(1_000, 300, (1, 3)))


def test_few_rows_of_a_large_file_are_drawn_in_runs() -> None:
    drawn = draw_rows(100_000, 640, (0,))
    assert len(set(drawn.tolist())) == 640
    assert set((drawn.reshape(-1, RUN_ROWS) - drawn[::RUN_ROWS, None]).reshape(-1).tolist()) == set(range(RUN_ROWS))


def made(rows: int, dimensions: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    draw = np.random.default_rng(3)
    heads = draw.normal(size=(100, dimensions))
    found = heads[draw.integers(0, 100, rows)] + 0.5 * draw.normal(size=(rows, dimensions))
    unit: np.ndarray[tuple[int, int], np.dtype[np.float32]] = np.asarray(
        found / np.linalg.norm(found, axis=1, keepdims=True), np.float32
    )
    return unit


@pytest.mark.parametrize("dimensions", [16, 300])
def test_lists_are_as_near_as_those_of_a_gpu_and_get_the_same_rows_each_time(dimensions: int) -> None:
    rows = made(1_500, dimensions)
    ours = train_centroids(rows, 96, 0)
    assert np.array_equal(ours, train_centroids(rows, 96, 0))
    nearest = cluster_on_device(rows, 96, 0, device="cpu")
    theirs = np.stack([rows[nearest == one].mean(axis=0) for one in range(96) if (nearest == one).any()])
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    found = [float((rows @ centroids.T).max(axis=1).mean()) for centroids in (ours, theirs)]
    assert found[0] > found[1] - 0.04


def test_a_row_gets_its_nearest_list_or_one_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset.index.projected._ALL_BELOW", 10)
    rows = made(1_200, 300)
    centroids = train_centroids(rows, 96, 0)
    products = rows @ centroids.T
    found = Centroids(centroids).assign(rows)
    assert (found == products.argmax(axis=1)).mean() > 0.9
    assert (products.max(axis=1) - products[np.arange(len(rows)), found]).mean() < 0.005
