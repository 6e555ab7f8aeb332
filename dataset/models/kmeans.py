"""k-means for the index, on a GPU or a CPU: plain Lloyd iterations with squared Euclidean distances.

Invariant: a seed and a device determine every byte of the result. Memory does not depend on the number of rows: it is
bounded by one piece of rows, one tile of distances, and sixteen bytes per number in the centroids.

A tile of distances is one matrix product, |c|² - 2 x·c; |x|² does not change which centroid is nearest. Rows are summed
in their order, one cluster after another, because atomic additions on a GPU happen in any order.

Source: faiss's Clustering, which also starts from random rows and halves large clusters for empty ones.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from dataset.models.device_rows import DeviceRows, Rows, on_device, tensor_core_products
from dataset.models.devices import device_named

TILE_DISTANCES = {"cpu": 1 << 22, "cuda": 1 << 28}
"""Distances computed at once: 16 MB on a CPU, about its cache; 1 GiB on a GPU."""

PIECE_ROWS = {"cpu": 2_048, "cuda": 32_768}

SPLIT = 1 / 1_024
"""A cluster is split by moving its centroid by this fraction in both directions; faiss calls it EPS."""

Labels = npt.NDArray[np.int64]


def fit_kmeans(
    rows: Rows, clusters: int, *, iterations: int = 10, seed: int = 0, device: str | None = None
) -> tuple[npt.NDArray[np.float32], float]:
    """Return `clusters` centroids (clusters, d) float32 of rows (n, d), and the inertia.

    The inertia is the sum of the squared distances of the rows to their nearest centroids. Rows may be a memory map.

    Raises: ValueError when there are fewer rows than clusters, or rows that are not finite; ModelError when there is no
    such device.
    """
    if not 0 < clusters <= len(rows):
        raise ValueError(f"{clusters} clusters of {len(rows)} rows: give at least one row for each cluster")
    place = device_named(device)
    there = DeviceRows(rows, place, PIECE_ROWS[place.type])
    first = np.sort(np.random.default_rng(seed).choice(len(rows), clusters, replace=False))
    with torch.inference_mode(), tensor_core_products():
        centroids = on_device(rows[first], place).float()
        for _ in range(iterations):
            centroids = _moved(centroids, *_summed(there, centroids))
        distances = (_squares(piece, centroids, labels) for _, piece, labels in _labelled(there, centroids))
        inertia = sum(float(some.sum(dtype=torch.float64)) for some in distances)
        if not np.isfinite(inertia):
            raise ValueError("some rows are not finite: leave them out")
        return centroids.cpu().numpy(), inertia


def assign_rows(
    rows: Rows, centroids: npt.NDArray[np.float32], *, device: str | None = None
) -> tuple[Labels, npt.NDArray[np.float32]]:
    """Return the number of each row's nearest centroid (n,) int64, and its squared distance (n,) float32.

    Raises: ModelError when there is no such device.
    """
    place = device_named(device)
    nearest = np.empty(len(rows), np.int64)
    distances = np.empty(len(rows), np.float32)
    with torch.inference_mode(), tensor_core_products():
        there = on_device(centroids, place)
        for start, piece, labels in _labelled(DeviceRows(rows, place, PIECE_ROWS[place.type]), there):
            nearest[start : start + len(piece)] = labels.cpu().numpy()
            distances[start : start + len(piece)] = _squares(piece, there, labels).cpu().numpy()
    return nearest, distances


def _labelled(rows: DeviceRows, centroids: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield the first row's number of each piece, the piece (m, d), and its nearest centroids (m,) int64."""
    kind = centroids.device.type
    at_once = TILE_DISTANCES[kind] // PIECE_ROWS[kind]
    tiles = [(start, centroids[start : start + at_once]) for start in range(0, len(centroids), at_once)]
    lengths = [tile.square().sum(1) for _, tile in tiles]
    for first, piece in rows.pieces():
        scaled = piece.float() * -2
        best = scaled.new_full((len(piece),), torch.inf)
        labels = torch.zeros(len(piece), dtype=torch.int64, device=piece.device)
        for (start, tile), length in zip(tiles, lengths, strict=True):
            smallest, place = torch.addmm(length, scaled, tile.T).min(1)
            labels = torch.where(smallest < best, place + start, labels)
            best = torch.minimum(best, smallest)
        yield first, piece, labels


def _squares(piece: torch.Tensor, centroids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of each row to its centroid, (m,) float32."""
    return (piece.float() - centroids[labels]).square().sum(1)


def _summed(rows: DeviceRows, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums (k, d) float64 and the numbers (k,) int64 of each centroid's nearest rows."""
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
    sizes = torch.zeros(len(centroids), dtype=torch.int64, device=centroids.device)
    for _, piece, labels in _labelled(rows, centroids):
        ordered, order = torch.sort(labels, stable=True)
        touched, counts = torch.unique_consecutive(ordered, return_counts=True)
        sums[touched] += torch.segment_reduce(piece[order].float(), "sum", lengths=counts, axis=0)
        sizes[touched] += counts
    return sums, sizes


def _moved(centroids: torch.Tensor, sums: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return the means of the clusters. For each empty cluster, one of the largest is split."""
    moved = sums.div_(sizes.clamp(min=1)[:, None]).float()
    empty = (sizes == 0).nonzero().squeeze(1)
    moved[empty] = centroids[empty]
    large = torch.sort(sizes, descending=True, stable=True).indices[: len(empty)]
    large = large[sizes[large] > 1]
    empty = empty[: len(large)]
    moved[empty] = moved[large] * (1 + SPLIT)
    moved[large] *= 1 - SPLIT
    return moved
