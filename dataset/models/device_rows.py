"""Read rows of numbers on a device, one piece at a time, and compute matrix products in a known precision.

Invariant: at most `piece_rows` rows are copied at once, unless all rows fit into half of the free memory of a GPU; then
they are copied once and stay there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Rows = npt.NDArray[np.float32] | npt.NDArray[np.float16]

PRODUCT_ERROR = 2.0**-8
"""Twice the bound for the error of a product of unit rows by `tensor_core_products`. TF32 cuts each factor after 10
bits: 2 x 2^-10 of the sum of |x y|, which is at most 1. Float16 factors are exact, but the result is rounded: 2^-11."""


class DeviceRows:
    """(n, d) float32 or float16 rows that are read in pieces, in order, as often as needed."""

    def __init__(self, rows: Rows, device: torch.device, piece_rows: int) -> None:
        if rows.ndim != 2 or rows.dtype not in (np.float32, np.float16):
            raise ValueError(f"rows are {rows.dtype} with shape {rows.shape}, not (n, d) float32 or float16")
        self._rows = rows
        self._device = device
        self._piece_rows = piece_rows
        self._there: torch.Tensor | None = None
        if device.type == "cuda" and rows.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self._there = torch.empty(rows.shape, dtype=_dtype(rows), device=device)
            for start, piece in self._copied():
                self._there[start : start + len(piece)] = piece

    def __len__(self) -> int:
        return len(self._rows)

    def pieces(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the number of the first row of each piece, and its rows on the device, in their own type."""
        if self._there is None:
            yield from self._copied()
            return
        for start in range(0, len(self._rows), self._piece_rows):
            yield start, self._there[start : start + self._piece_rows]

    def _copied(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, len(self._rows), self._piece_rows):
            yield start, on_device(self._rows[start : start + self._piece_rows], self._device)


def on_device(rows: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy an array to the device; on a CPU, a writable array is shared instead."""
    whole = np.ascontiguousarray(rows)
    if not whole.flags.writeable:  # torch warns about memory that it may not write
        whole = whole.copy()
    return torch.from_numpy(whole).to(device)


@contextmanager
def tensor_core_products() -> Iterator[None]:
    """Multiply float32 matrices in TF32 and float16 ones with sums in float32, on GPUs that can."""
    products = torch.backends.cuda.matmul
    precision = torch.get_float32_matmul_precision()
    reduced = products.allow_fp16_reduced_precision_reduction
    torch.set_float32_matmul_precision("high")
    products.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        products.allow_fp16_reduced_precision_reduction = reduced


def _dtype(rows: Rows) -> torch.dtype:
    return torch.float16 if rows.dtype == np.float16 else torch.float32
