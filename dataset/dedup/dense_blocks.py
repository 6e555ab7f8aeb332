"""Which of many pairs may reach a cosine, by products of whole blocks of rows.

Where different pictures are alike, the same rows are in thousands of candidates that are no near-duplicates. A product
of two blocks of 256 rows costs as much as 1,200 pairs one by one, so it decides about a block that has more. Only pairs
that miss the cosine by more than all roundings of a product together are given up; the others are left to be computed
exactly, so that the result does not depend on the blocks.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from dataset.formats.halves import widen

Matrix = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_ROUNDING = 2.0**-23
"""Of a number of a float32 row: half of it in the sum of products, and half in the two norms."""
_BLOCK = 256
_LEAST_PAIRS = 1_200
"""Pairs of two blocks from which on their product costs less than the pairs one by one."""
_LEAST_OF_ROW = 4
"""A row in fewer pairs is in no block."""
_SPARSE = 16
"""Rows are numbered anew when the highest number is this many times the number of pairs."""
_KEPT_BLOCKS = 32
"""Blocks of the right side in memory: 25 MB of 768 dimensions."""

Read = Callable[[Integers], Matrix]
"""Returns the float rows with these numbers -> (N, D)."""


def may_reach(cosine: float, a: Integers, b: Integers, rows_a: Read, rows_b: Read) -> Bools:
    """Return whether pairs may have a cosine of at least `cosine` -> (N,) bool.

    Pair i is row a[i] of one side and row b[i] of the other, both (N,); `rows_a` and `rows_b` read rows of the sides.
    """
    found = np.ones(len(a), bool)
    if len(a) < _LEAST_PAIRS:
        return found
    ordered_a, place_a = _by_pairs(a)
    ordered_b, place_b = _by_pairs(b)
    blocks = -(-len(ordered_b) // _BLOCK)
    pairs = np.flatnonzero((place_a >= 0) & (place_b >= 0))
    block = place_a[pairs] // _BLOCK * blocks + place_b[pairs] // _BLOCK
    is_dense = np.bincount(block) >= _LEAST_PAIRS
    chosen = np.flatnonzero(is_dense[block])
    pairs, block = pairs[chosen], block[chosen]
    order = np.argsort(block, kind="stable")
    pairs, block = pairs[order], block[order]
    starts = np.searchsorted(block, np.flatnonzero(is_dense))
    kept: dict[int, npt.NDArray[np.float32]] = {}
    current, left = -1, np.empty((0, 0), np.float32)
    for some in np.split(pairs, starts[1:]) if len(pairs) else ():
        at_a, at_b = int(place_a[some[0]]) // _BLOCK, int(place_b[some[0]]) // _BLOCK
        if at_a != current:
            current, left = at_a, _unit(rows_a(ordered_a[at_a * _BLOCK : (at_a + 1) * _BLOCK]))
        if at_b not in kept:
            if len(kept) >= _KEPT_BLOCKS:
                kept.clear()
            kept[at_b] = _unit(rows_b(ordered_b[at_b * _BLOCK : (at_b + 1) * _BLOCK]))
        products = left @ kept[at_b].T
        lowest = cosine - _ROUNDING * left.shape[1]
        found[some] = products[place_a[some] % _BLOCK, place_b[some] % _BLOCK] >= lowest
    return found


def _by_pairs(rows: Integers) -> tuple[Integers, Integers]:
    """Return the rows that are in many pairs, those in most first, and of each pair its row's place there or -1."""
    names, numbers = None, rows
    if int(rows.max()) >= _SPARSE * len(rows):
        names, numbers = np.unique(rows, return_inverse=True)
    pairs = np.bincount(numbers)
    many = np.flatnonzero(pairs >= _LEAST_OF_ROW)
    many = many[np.argsort(-pairs[many], kind="stable")]
    places = np.full(len(pairs), -1, np.int64)
    places[many] = np.arange(len(many))
    return many if names is None else names[many], places[numbers]


def _unit(rows: Matrix) -> npt.NDArray[np.float32]:
    found = widen(rows)
    found /= np.sqrt(np.einsum("nd,nd->n", found, found))[:, None]
    return found
