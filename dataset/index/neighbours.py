"""The exact nearest rows of held-out queries, gathered block by block while the rows are merged.

Recall is measured without a filter, and with filters that half, a tenth and a hundredth of the rows pass, chosen by a
mixed id: the same rows on every machine.
"""

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Found = tuple[Integers, Integers, Rows]
"""Queries, and the id and similarity of a row for each, all (N,)."""

SELECTIVITIES = (1.0, 0.5, 0.1, 0.01)
NEIGHBOURS = 101
"""A hundred, and the query itself."""
_BLOCK_ROWS = 8_192


def passes(ids: Integers, selectivity: float) -> npt.NDArray[np.bool_]:
    """Return which ids pass the filter that a share of all rows passes -> (N,) bool."""
    if selectivity >= 1:
        return np.ones(len(ids), bool)
    mixed = ids.astype(np.uint64)
    with np.errstate(over="ignore"):  # splitmix64 of Steele, Lea and Flood
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((mixed ^ (mixed >> np.uint64(31))) < np.uint64(int(selectivity * 2**64)))


class NearestRows:
    """The best rows of each query so far, for each selectivity."""

    def __init__(self, queries: Rows, selectivities: Sequence[float] = SELECTIVITIES) -> None:
        """Begin with (Q, D) float32 unit rows."""
        self._queries, self._selectivities = queries, selectivities
        empty = np.empty(0, np.int64)
        self._found = [(empty, empty, np.empty(0, np.float32)) for _ in selectivities]
        self._least = [np.full(len(queries), -np.inf, np.float32) for _ in selectivities]
        self._waiting: list[list[Found]] = [[] for _ in selectivities]

    def add(self, ids: Integers, rows: npt.NDArray[np.float16]) -> None:
        """Compare rows (N, D) float16 with all queries."""
        for start in range(0, len(ids), _BLOCK_ROWS):
            some = ids[start : start + _BLOCK_ROWS]
            near = self._queries @ rows[start : start + _BLOCK_ROWS].astype(np.float32).T  # (Q, n)
            for at, selectivity in enumerate(self._selectivities):
                if selectivity < 1:
                    here = passes(some, selectivity)
                    self._add(at, some[here], near.compress(here, axis=1))
                else:
                    self._add(at, some, near)

    def _add(self, at: int, ids: Integers, near: Rows) -> None:
        least = self._least[at]
        if len(ids) > NEIGHBOURS and np.isneginf(least).any():  # else the first block would be sorted whole
            least = np.maximum(least, np.partition(near, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS])
        better = np.flatnonzero(near >= least[:, None])  # on one axis: on two it takes three times as long
        if len(better):
            self._waiting[at].append((better // len(ids), ids[better % len(ids)], near.ravel()[better]))
            if sum(len(found[0]) for found in self._waiting[at]) >= len(self._queries) * NEIGHBOURS:
                self._keep(at)

    def _keep(self, at: int) -> None:
        """Keep the best NEIGHBOURS of each query among all that wait; of equal ones, the lower ids."""
        if not self._waiting[at]:
            return
        query, ids, near = (np.concatenate(some) for some in zip(self._found[at], *self._waiting[at], strict=True))
        self._waiting[at] = []
        order = np.lexsort((ids, -near, query))
        query, ids, near = query[order], ids[order], near[order]
        starts = np.searchsorted(query, np.arange(len(self._queries)))
        rank = np.arange(len(query)) - starts[query]
        last = rank == NEIGHBOURS - 1
        self._least[at][query[last]] = near[last]
        kept = rank < NEIGHBOURS
        self._found[at] = query[kept], ids[kept], near[kept]

    def to_bytes(self) -> bytes:
        """Return what was found as a file; equal finds give equal bytes."""
        file = io.BytesIO()
        for at in range(len(self._selectivities)):
            self._keep(at)
            for array in self._found[at]:
                np.save(file, array)
        return file.getvalue()

    def merge(self, data: bytes) -> None:
        """Add what another found for the same queries."""
        file = io.BytesIO(data)
        for at in range(len(self._selectivities)):
            query, ids, near = (np.load(file) for _ in range(3))
            if len(query):
                self._waiting[at].append((query, ids, near))
                self._keep(at)

    def lists(self, at: int) -> Iterator[tuple[Integers, Rows]]:
        """Yield ids and similarities of the nearest rows of each query, best first, for selectivity number `at`."""
        self._keep(at)
        query, ids, near = self._found[at]
        starts = np.searchsorted(query, np.arange(len(self._queries) + 1))
        for start, end in pairwise(starts.tolist()):
            yield ids[start:end], near[start:end]


def recall_of(
    found: tuple[Integers, Rows], nearest: tuple[Integers, Rows], own: int, most: int, tolerance: float = 1e-5
) -> float | None:
    """Return the share of the `most` nearest rows that a search found; None where there is no neighbour.

    Both are ids and similarities, best first; the query's own id is left out of both. Among equal pictures any is as
    right as another: a found row counts if it is as similar as the last of the nearest rows.
    """
    expected = nearest[1][nearest[0] != own][:most]
    if not len(expected):
        return None
    similar = found[1][found[0] != own][:most]
    return float(np.count_nonzero(similar >= expected[-1] - tolerance)) / len(expected)
