"""The list of each row, found in two steps: the nearest lists in few dimensions, then the nearest of these in all.

Centroids differ mostly in their first principal directions. A product in 128 of 768 dimensions takes a sixth of the
work; the CANDIDATES that it finds are compared in full. docs/performance.md: how often a row gets another list by it.
"""

import faiss
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

DIMENSIONS = 128
CANDIDATES = 8
_ALL_BELOW = 512
"""Fewer lists are compared in full."""
_PIECE_ROWS = 1_024
_ROUNDS = 6


def principal_directions(rows: Rows, count: int) -> Rows:
    """Return directions that span nearly all of the first principal ones of (N, D) float32 rows -> (D, count).

    Subspace iteration: LAPACK's full decomposition takes ten times as long, and only the span counts here.
    """
    centred = rows - rows.mean(axis=0)
    covariance = centred.T @ centred
    found = np.random.default_rng(0).standard_normal((rows.shape[1], count), np.float32)
    for _ in range(_ROUNDS):
        found = np.linalg.qr(covariance @ found)[0]
    return np.ascontiguousarray(found, np.float32)


class Centroids:
    """Centroids (lists, D) float32 of which the nearest to rows is looked for."""

    def __init__(self, centroids: Rows) -> None:
        self._centroids = np.ascontiguousarray(centroids)
        lists, dimensions = self._centroids.shape
        self._index = None
        if lists >= _ALL_BELOW and dimensions > 2 * DIMENSIONS:
            self._directions = principal_directions(self._centroids, DIMENSIONS)
            self._index = faiss.IndexFlatIP(DIMENSIONS)
            # The part of a centroid that all have in common does not change which is nearest.
            self._index.add((self._centroids - self._centroids.mean(axis=0)) @ self._directions)

    def assign(self, rows: Rows) -> Integers:
        """Return the list of each of (N, D) float32 rows -> (N,) int64."""
        if self._index is None:
            return np.asarray(np.argmax(rows @ self._centroids.T, axis=1), np.int64)
        _, near = self._index.search(rows @ self._directions, CANDIDATES)
        found = np.empty(len(rows), np.int64)
        for start in range(0, len(rows), _PIECE_ROWS):
            some = near[start : start + _PIECE_ROWS]
            products = np.matmul(self._centroids[some], rows[start : start + _PIECE_ROWS, :, None])[:, :, 0]
            found[start : start + _PIECE_ROWS] = some[np.arange(len(some)), np.argmax(products, axis=1)]
        return found
