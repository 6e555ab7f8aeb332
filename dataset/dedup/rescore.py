"""Exact cosines of pairs, from the float16 rows of a release's embeddings.

Cosines are in steps of STEP, rounded before they are compared with anything: the last bits of float sums differ between
processors. A row is named by its batch and its number in the batch's files: those of the embeddings, or a copy of them
that lies in the order of the search. The pairs of a cell are then found in a few ranges of a copy, while in the
embeddings they are anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.dedup.arrays import MAX_OPEN
from dataset.dedup.dense_blocks import may_reach
from dataset.formats.halves import widen
from dataset.formats.npy import NpyRows, map_rows, open_rows
from dataset.store.store import Store

Matrix = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Steps = npt.NDArray[np.int16]

STEP = 1e-4
_PAIRS_AT_ONCE = 4096
_FETCHED_PAIRS = 1 << 18
"""Pairs whose rows are fetched together from an object store: up to 2^18 rows a side, and mostly far fewer."""
_NEAR_ROWS, _ROWS_OF_REQUEST = 64, 16_384
"""Rows this near to each other are read by one request to an object store, up to so many."""


def to_steps(cosine: float) -> int:
    """Return a cosine in steps."""
    return round(cosine / STEP)


class FloatRows:
    """The rows of a batch, in several .npy files."""

    def __init__(self, store: Store, paths: Sequence[str], starts: Integers) -> None:
        """Name the files, and the number of the first row of each; they are opened when they are read first."""
        self._store, self._paths, self._starts = store, paths, starts
        self._opened: dict[int, NpyRows | Matrix] = {}
        self.is_mapped = all(store.local_path(path) is not None for path in paths[:1])

    def take(self, at: Integers) -> Matrix:
        """Return rows by their numbers -> (N, D) of the files' type."""
        files = np.searchsorted(self._starts, at, "right") - 1
        first = self._open(int(files[0]))
        if files.min() == files.max() and isinstance(first, np.ndarray):
            return np.asarray(first[at - self._starts[files[0]]])
        found: Matrix | None = None
        for file in np.unique(files).tolist():
            mine = np.flatnonzero(files == file)
            rows = self._rows_of(file, at[mine] - self._starts[file])
            if found is None:
                found = np.empty((len(at), rows.shape[1]), rows.dtype)
            found[mine] = rows
        assert found is not None
        return found

    def _open(self, file: int) -> NpyRows | Matrix:
        if file not in self._opened:
            if len(self._opened) >= MAX_OPEN:
                self._opened.clear()
            path = self._paths[file]
            mapped = map_rows(self._store, path)
            self._opened[file] = open_rows(self._store, path) if mapped is None else mapped
        return self._opened[file]

    def _rows_of(self, file: int, at: Integers) -> Matrix:
        opened = self._open(file)
        if isinstance(opened, np.ndarray):
            return np.asarray(opened[at])
        wanted, back = np.unique(at, return_inverse=True)
        far = (np.diff(wanted) > _NEAR_ROWS) | (np.diff(wanted // _ROWS_OF_REQUEST) > 0)
        runs = np.split(wanted, np.flatnonzero(far) + 1)
        return np.concatenate([opened.read(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs])[back]


def cosine_steps(left: Matrix, right: Matrix) -> Steps:
    """Return the cosines of (N, D) rows, pair by pair -> (N,) int16 in steps."""
    a, b = (rows if rows.dtype == np.float32 else widen(rows) for rows in (left, right))
    product = np.einsum("nd,nd->n", a, b).astype(np.float64)
    norms = np.einsum("nd,nd->n", a, a).astype(np.float64) * np.einsum("nd,nd->n", b, b)
    found: Steps = np.rint(product / np.sqrt(norms) / STEP).astype(np.int16)
    return found


@dataclass(frozen=True, slots=True)
class Names:
    """Rows by their batches and their numbers in them, both (N,)."""

    batch: Integers
    row: Integers

    def take(self, at: Integers) -> tuple[Integers, Integers]:
        """Return the batches and numbers of some of the rows."""
        return self.batch[at], self.row[at]


class Rescorer:
    """Exact cosines between rows of any batches."""

    def __init__(self, batches: Sequence[FloatRows]) -> None:
        self._batches = batches

    def rows(self, batch: Integers, row: Integers) -> Matrix:
        """Return the float rows -> (N, D)."""
        first = int(batch[0])
        if (batch == first).all():
            return self._batches[first].take(row)
        found: Matrix | None = None
        for one in np.unique(batch).tolist():
            mine = np.flatnonzero(batch == one)
            rows = self._batches[one].take(row[mine])
            if found is None:
                found = np.empty((len(row), rows.shape[1]), rows.dtype)
            found[mine] = rows
        assert found is not None
        return found

    def cosines(self, batch_a: Integers, row_a: Integers, batch_b: Integers, row_b: Integers) -> Steps:
        """Return the cosines of pairs -> (N,) int16 in steps."""
        found = np.empty(len(row_a), np.int16)
        if not all(batch.is_mapped for batch in self._batches):
            for start in range(0, len(row_a), _FETCHED_PAIRS):
                one = slice(start, start + _FETCHED_PAIRS)
                found[one] = _cosines(*self._fetched(batch_a[one], row_a[one], batch_b[one], row_b[one]))
            return found
        for start in range(0, len(row_a), _PAIRS_AT_ONCE):
            one = slice(start, start + _PAIRS_AT_ONCE)
            left = self._repeated(batch_a[one], row_a[one])
            found[one] = cosine_steps(left, self.rows(batch_b[one], row_b[one]))
        return found

    def cosines_from(self, least: int, left: Names, a: Integers, right: Names, b: Integers) -> Steps:
        """Return the cosines of pairs of the rows a of `left` and b of `right` -> (N,) int16 in steps.

        Of a pair below `least` steps the number is any lower one: where rows are in many pairs, it is not computed.
        """
        cosine = (least - 0.5) * STEP
        found = np.full(len(a), np.iinfo(np.int16).min, np.int16)
        if all(batch.is_mapped for batch in self._batches):
            may = may_reach(cosine, a, b, lambda at: self.rows(*left.take(at)), lambda at: self.rows(*right.take(at)))
            found[may] = self.cosines(*left.take(a[may]), *right.take(b[may]))
            return found
        for start in range(0, len(a), _FETCHED_PAIRS):
            one = slice(start, start + _FETCHED_PAIRS)
            rows, of_a, of_b = self._fetched(*left.take(a[one]), *right.take(b[one]))
            left_over = np.flatnonzero(may_reach(cosine, of_a, of_b, rows.__getitem__, rows.__getitem__))
            found[start + left_over] = _cosines(rows, of_a[left_over], of_b[left_over])
        return found

    def _fetched(
        self, batch_a: Integers, row_a: Integers, batch_b: Integers, row_b: Integers
    ) -> tuple[Matrix, Integers, Integers]:
        """Return the rows of pairs, each read once -> (N, D), and the places of both sides among them."""
        names = np.concatenate([batch_a << 48 | row_a, batch_b << 48 | row_b])
        wanted, back = np.unique(names, return_inverse=True)
        a, b = np.split(back, 2)
        return self.rows(wanted >> 48, wanted & 0xFFFFFFFFFFFF), a, b

    def _repeated(self, batch: Integers, row: Integers) -> npt.NDArray[np.float32]:
        """Return float rows of which the same often follow each other; to widen a row takes 1 µs."""
        first = np.ones(len(row), bool)
        first[1:] = (batch[1:] != batch[:-1]) | (row[1:] != row[:-1])
        found = widen(self.rows(batch[first], row[first]))
        repeated: npt.NDArray[np.float32] = found[np.cumsum(first) - 1]
        return repeated


def _cosines(rows: Matrix, a: Integers, b: Integers) -> Steps:
    """Return the cosines of pairs of rows -> (N,) int16 in steps."""
    found = np.empty(len(a), np.int16)
    for start in range(0, len(a), _PAIRS_AT_ONCE):
        one = slice(start, start + _PAIRS_AT_ONCE)
        found[one] = cosine_steps(rows[a[one]], rows[b[one]])
    return found
