"""Short codes of embeddings: the mean and principal directions, and what is left over as one more number.

    code(x) = [P x, sqrt(1 - |P x|²)]  for unit rows x and orthonormal P

The product of two codes is never below the cosine (Cauchy-Schwarz), so that a threshold on it loses no pair. `kept` is
the share of a pair's squared distance that its codes keep; with the share of nearly all true pairs, measured on the
data itself, the threshold can be higher: 1 - kept (1 - t).

Products here are `stable`: OpenBLAS gives a row other last bits at the ends of a matrix, so matrices are padded.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dataset.dedup.errors import DedupError
from dataset.formats.halves import widen

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.floating]
Cosine = TypeVar("Cosine", float, npt.NDArray[np.float64])

CODE_LENGTH = 128
ROUNDING = 2.0**-10
"""A product of codes in float16 differs by less: 2 · 2^-11 of a sum of products that is at most 1."""
_PADDED_ROWS, _PADDED_COLUMNS = 256, 16
_ROWS_AT_ONCE = 8192


def places_from(products: Floats, lowest: float | Floats) -> tuple[Integers, Integers]:
    """Return rows and columns of the numbers that reach `lowest`, as np.nonzero does, which takes ten times as long."""
    found = np.flatnonzero((products >= lowest).ravel())
    return np.divmod(found, products.shape[1])


def stable_product(rows: Floats, columns: Floats) -> Floats:
    """Return rows @ columns such that a row's result does not depend on the other rows -> (N, M) float32."""
    count, width = len(rows), columns.shape[1]
    padded_rows = np.zeros((max(1, -(-count // _PADDED_ROWS)) * _PADDED_ROWS, rows.shape[1]), np.float32)
    padded_rows[:count] = rows
    padded = np.zeros((columns.shape[0], -(-width // _PADDED_COLUMNS) * _PADDED_COLUMNS), np.float32)
    padded[:, :width] = columns
    found: Floats = (padded_rows @ padded)[:count, :width]
    return found


def unit_rows(rows: Matrix) -> Floats:
    """Return rows with norm 1 -> (N, D) float32.

    Raises: DedupError when a row is not finite or zero.
    """
    wide = widen(rows)
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise DedupError(
            f"{len(bad)} of {len(rows)} rows are NaN, infinite or zero: embed their shards again, and gather them with "
            "dataset embeddings --restart."
        )
    wide /= norms[:, None]
    return wide


def train_projection(sample: Matrix) -> Floats:
    """Return P from a sample of rows -> (D, at most CODE_LENGTH - 1) float32, orthonormal columns."""
    dimensions = sample.shape[1]
    if dimensions < CODE_LENGTH:
        return np.eye(dimensions, dtype=np.float32)
    sums = np.zeros(dimensions)
    products = np.zeros((dimensions, dimensions))
    for start in range(0, len(sample), _ROWS_AT_ONCE):
        block = unit_rows(sample[start : start + _ROWS_AT_ONCE])
        sums += block.sum(axis=0, dtype=np.float64)
        products += block.T @ block
    mean = sums / len(sample)
    _, directions = np.linalg.eigh(products / len(sample) - np.outer(mean, mean))
    leading = directions[:, ::-1][:, : CODE_LENGTH - 2]
    orthonormal: Floats = np.linalg.qr(np.column_stack([mean, leading]))[0].astype(np.float32)
    return orthonormal


def encode(rows: Matrix, projection: Floats) -> Halves:
    """Return the codes of rows -> (N, K + 1) float16 for a (D, K) projection.

    Raises: DedupError when a row is not finite or zero.
    """
    codes = np.empty((len(rows), projection.shape[1] + 1), np.float16)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = unit_rows(rows[start : start + _ROWS_AT_ONCE])
        inside = stable_product(block, projection)
        part = codes[start : start + len(block)]
        part[:, :-1] = inside
        part[:, -1] = np.sqrt(np.maximum(0, 1 - np.einsum("nk,nk->n", inside, inside)))
    return codes


def code_threshold(cosine: Cosine, kept: float) -> Cosine:
    """Return the product of codes that pairs with a cosine reach."""
    return 1 - kept * (1 - cosine) - ROUNDING
