"""Clustering on a GPU, by `dataset.models.kmeans`: all lists at once, in all dimensions.

Whether there is a GPU is told by its device file: importing torch to ask takes seconds. On a machine without one, or
without the extra [models], training stays on the CPU.
"""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_DEVICE_FILE = Path("/dev/nvidia0")
_ROUNDS = 10


def has_gpu() -> bool:
    """Return whether a GPU of NVIDIA's and torch are there."""
    return _DEVICE_FILE.exists() and importlib.util.find_spec("torch") is not None


def cluster_on_device(rows: Rows, lists: int, seed: int, device: str | None = None) -> Integers:
    """Return the list of each of (N, D) float32 rows -> (N,) int64; neighbouring lists have neighbouring numbers.

    `device` None means the first GPU.
    """
    from dataset.models.kmeans import assign_rows, fit_kmeans

    centroids, _ = fit_kmeans(rows, lists, iterations=_ROUNDS, seed=seed, device=device)
    nearest, _ = assign_rows(rows, centroids, device=device)
    groups = 1 << round(float(np.log2(lists)) / 2)
    heads, _ = fit_kmeans(centroids, min(groups, lists), iterations=_ROUNDS, seed=seed, device=device)
    group, _ = assign_rows(centroids, heads, device=device)
    number = np.empty(lists, np.int64)
    number[np.argsort(group, kind="stable")] = np.arange(lists)
    return number[nearest]
