"""All pairs of rows of two blocks whose dot product is at least a threshold, on a GPU or a CPU.

Invariant: no pair is missed and none is reported wrongly. Tiles of the product are computed in fast arithmetic and
compared with the threshold minus the error of that arithmetic. Each pair found is computed again in float64, and its
value, rounded to float32, decides. That value differs between devices by one unit in the last place at most.

Rows are unit rows, (n, d) float32 or float16. On a GPU float16 rows are multiplied as they are and float32 rows in
TF32. Memory is bounded by one tile, the pairs found in it, and the two blocks.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from dataset.models.device_rows import PRODUCT_ERROR, Rows, on_device, tensor_core_products
from dataset.models.devices import device_named

TILE_ROWS = {"cpu": 2_048, "cuda": 16_384}
"""Rows of a tile in both directions: 16 MB of products on a CPU, 1 GiB of float32 on a GPU."""

EXACT_PAIRS = 1 << 18
"""Pairs that are computed again at once: 3 GB in float64 at 768 numbers."""

Numbers = npt.NDArray[np.int64]
Cosines = npt.NDArray[np.float32]
Pairs = tuple[Numbers, Numbers, Cosines]


def join_blocks(left: Rows, right: Rows | None, threshold: float, *, device: str | None = None) -> Pairs:
    """Return i, j and cosine of all pairs with left[i]·right[j] >= threshold, ordered by i and j.

    If `right` is None, `left` is compared with itself, and only pairs i < j are returned.

    Raises: ModelError when there is no such device.
    """
    found = [*join_tiles(left, right, threshold, device=device)]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    i, j, cosine = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.lexsort((j, i))
    return i[order], j[order], cosine[order]


def join_tiles(left: Rows, right: Rows | None, threshold: float, *, device: str | None = None) -> Iterator[Pairs]:
    """Yield the pairs of `join_blocks` tile by tile, for blocks with more pairs than fit into memory.

    Tiles come in order of their rows of `left`, then of `right`; the pairs in each are ordered by i and j.

    Raises: ModelError when there is no such device.
    """
    place = device_named(device)
    side = TILE_ROWS[place.type]
    with torch.inference_mode():
        rows = _prepared(left, place)
        columns = rows if right is None else _prepared(right, place)
        wanted = torch.tensor(threshold, dtype=torch.float32, device=place)
        for top in range(0, len(rows), side):
            for start in range(top if right is None else 0, len(columns), side):
                some, others = rows[top : top + side], columns[start : start + side]
                i, j = _candidates(some, others, threshold, above_diagonal=right is None and top == start)
                cosine = _exact(some, others, i, j)
                kept = cosine >= wanted
                yield (
                    (i[kept] + top).cpu().numpy(),
                    (j[kept] + start).cpu().numpy(),
                    cosine[kept].cpu().numpy(),
                )


def _prepared(rows: Rows, device: torch.device) -> torch.Tensor:
    if rows.ndim != 2 or rows.dtype not in (np.float32, np.float16):
        raise ValueError(f"rows are {rows.dtype} with shape {rows.shape}, not (n, d) float32 or float16")
    there = on_device(rows, device)
    return there.float() if device.type == "cpu" else there


def _candidates(
    rows: torch.Tensor, columns: torch.Tensor, threshold: float, *, above_diagonal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions in a tile where the product may reach the threshold, (m,) int64 each."""
    with tensor_core_products():
        found = rows @ columns.T >= threshold - PRODUCT_ERROR
    if above_diagonal:
        found = found.triu_(1)
    i, j = found.nonzero(as_tuple=True)
    return i, j


def _exact(rows: torch.Tensor, columns: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Return the dot products of pairs of rows, (m,) float32, rounded from float64."""
    cosines = [
        torch.einsum("nd,nd->n", rows[some].double(), columns[others].double()).float()
        for some, others in zip(torch.split(i, EXACT_PAIRS), torch.split(j, EXACT_PAIRS), strict=True)
    ]
    return torch.cat(cosines)
