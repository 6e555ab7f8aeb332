"""k-means, compared with numpy: the same centroids, empty clusters filled, the same bytes for a seed, memory maps."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import dataset.models.kmeans as kmeans
from dataset.models.files import ModelError
from dataset.models.kmeans import assign_rows, fit_kmeans

Rows = npt.NDArray[np.float32]


def blobs(seed: int, rows: int, clusters: int, spread: float = 0.05) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Return unit rows (rows, 24) around `clusters` unit centres, and each row's centre."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(clusters, 24)))
    owner = rng.integers(0, clusters, rows)
    return unit(centres[owner] + spread * rng.normal(size=(rows, 24))), owner


def unit(rows: npt.NDArray[np.float64]) -> Rows:
    unit_rows: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit_rows


def lloyd(rows: Rows, clusters: int, iterations: int, seed: int) -> tuple[npt.NDArray[np.float64], float]:
    """The same algorithm in float64, for data that leaves no cluster empty."""
    first = np.sort(np.random.default_rng(seed).choice(len(rows), clusters, replace=False))
    wide = rows.astype(np.float64)
    centroids = wide[first]
    for _ in range(iterations):
        labels = squares(wide, centroids).argmin(1)
        assert len(np.unique(labels)) == clusters
        centroids = np.stack([wide[labels == label].mean(0) for label in range(clusters)])
    return centroids, float(squares(wide, centroids).min(1).sum())


def squares(rows: npt.NDArray[np.float64], centroids: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    differences: npt.NDArray[np.float64] = rows[:, None] - centroids[None]
    summed: npt.NDArray[np.float64] = np.square(differences).sum(2)
    return summed


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rows and centroids into several pieces, with a rest each."""
    monkeypatch.setattr(kmeans, "PIECE_ROWS", {"cpu": 37, "cuda": 37})
    monkeypatch.setattr(kmeans, "TILE_DISTANCES", {"cpu": 37 * 5, "cuda": 37 * 5})


@pytest.mark.usefixtures("small_tiles")
def test_centroids_and_inertia_are_those_of_plain_lloyd_iterations() -> None:
    rows, _ = blobs(1, 500, 12, spread=0.2)
    centroids, inertia = fit_kmeans(rows, 12, iterations=4, seed=3, device="cpu")
    wanted, wanted_inertia = lloyd(rows, 12, 4, 3)
    assert centroids.dtype == np.float32
    assert np.allclose(centroids, wanted, atol=1e-5)
    assert inertia == pytest.approx(wanted_inertia, rel=1e-5)


@pytest.mark.usefixtures("small_tiles")
def test_rows_are_assigned_to_the_nearest_centroid_with_its_squared_distance() -> None:
    rows, _ = blobs(2, 300, 9)
    centroids = blobs(3, 23, 23)[0]
    labels, distances = assign_rows(rows, centroids, device="cpu")
    wanted = squares(rows.astype(np.float64), centroids.astype(np.float64))
    assert labels.tolist() == wanted.argmin(1).tolist()
    assert np.allclose(distances, wanted.min(1), atol=1e-6)


@pytest.mark.usefixtures("small_tiles")
def test_the_same_seed_gives_the_same_bytes_and_another_one_other_bytes() -> None:
    rows, _ = blobs(4, 400, 16)
    one, again, other = (fit_kmeans(rows, 16, iterations=3, seed=seed, device="cpu")[0] for seed in (1, 1, 2))
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()


def test_an_empty_cluster_takes_half_of_a_large_one() -> None:
    rows, owner = blobs(5, 600, 3, spread=0.01)
    rows = np.concatenate([rows, np.repeat(rows[owner == 0][:1], 400, axis=0)])  # most random first rows are equal
    centroids, _ = fit_kmeans(rows, 8, iterations=12, seed=0, device="cpu")
    labels, _ = assign_rows(rows, centroids, device="cpu")
    assert {*np.unique(owner[labels[:600] == labels[0]])} == {owner[0]}
    assert len(np.unique(labels)) >= 7
    assert len(np.unique(centroids, axis=0)) == 8


def test_fewer_different_rows_than_clusters_end_with_each_row_on_a_centroid() -> None:
    rows = np.repeat(blobs(6, 4, 4)[0], 5, axis=0)
    centroids, inertia = fit_kmeans(rows, 12, iterations=30, seed=0, device="cpu")
    assert np.isfinite(centroids).all()
    assert inertia < 1e-3


def test_float16_memory_maps_are_read_in_pieces(tmp_path: Path) -> None:
    rows = blobs(7, 200, 5)[0].astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    from_file, _ = fit_kmeans(mapped, 5, iterations=5, seed=0, device="cpu")
    in_memory, _ = fit_kmeans(rows.astype(np.float32), 5, iterations=5, seed=0, device="cpu")
    assert from_file.tobytes() == in_memory.tobytes()


def test_too_few_rows_rows_that_are_not_finite_and_unknown_devices_are_refused() -> None:
    rows, _ = blobs(8, 20, 2)
    with pytest.raises(ValueError, match="21 clusters of 20 rows"):
        fit_kmeans(rows, 21, device="cpu")
    with pytest.raises(ModelError, match="Cannot use the device toaster"):
        fit_kmeans(rows, 2, device="toaster")
    with pytest.raises(ValueError, match="float64"):
        fit_kmeans(rows.astype(np.float64), 2, device="cpu")  # type: ignore[arg-type]
    rows[7, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_kmeans(rows, 2, device="cpu")
