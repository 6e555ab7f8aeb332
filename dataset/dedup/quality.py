"""The order in which rows may represent others, as one number a row: the lower, the better.

The columns are compared one after the other; what is left of 64 bits is the pair's hash, and the id decides between
equal numbers. So the order is total, and independent of files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.dedup.errors import DedupError

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

UNSAFE_FROM, WATERMARK_FROM = 0.5, 0.8
"""LAION's thresholds for punsafe and pwatermark."""
DEFAULT_ORDER = ("safe", "watermark", "size", "similarity", "pixels", "hash")


def _column(rows: pa.Table, name: str) -> Floats:
    """Return a column as (N,) float64, NaN where it is null."""
    found: Floats = rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def _safe(rows: pa.Table) -> Floats:
    return np.where(_column(rows, "punsafe") >= UNSAFE_FROM, 1.0, 0.0)


def _watermark(rows: pa.Table) -> Floats:
    return np.where(_column(rows, "pwatermark") >= WATERMARK_FROM, 1.0, 0.0)


def _size(rows: pa.Table) -> Floats:
    """0: both sides have 512 pixels; 1: 256; 2: fewer."""
    shorter = np.minimum(_column(rows, "WIDTH"), _column(rows, "HEIGHT"))
    return np.where(shorter >= 512, 0.0, np.where(shorter >= 256, 1.0, 2.0))


def _similarity(rows: pa.Table) -> Floats:
    return np.round((1 - np.nan_to_num(_column(rows, "similarity"))) * 2047)


def _pixels(rows: pa.Table) -> Floats:
    pixels = np.nan_to_num(_column(rows, "WIDTH") * _column(rows, "HEIGHT"))
    return 4095 - np.round(np.log2(np.maximum(pixels, 1)) * 64)


@dataclass(frozen=True, slots=True)
class _Criterion:
    bits: int
    columns: tuple[str, ...]
    """Of the data files."""
    rank: Callable[[pa.Table], Floats]


_CRITERIA = {
    "safe": _Criterion(1, ("punsafe",), _safe),
    "watermark": _Criterion(1, ("pwatermark",), _watermark),
    "size": _Criterion(2, ("WIDTH", "HEIGHT"), _size),
    "similarity": _Criterion(12, ("similarity",), _similarity),
    "pixels": _Criterion(12, ("WIDTH", "HEIGHT"), _pixels),
}


def check_order(order: Sequence[str]) -> None:
    """Raise DedupError unless the names are known and `hash` comes last."""
    if not order or order[-1] != "hash" or len(set(order)) < len(order):
        raise DedupError("The order of quality has each name once and hash at its end: safe,similarity,hash.")
    unknown = [name for name in order[:-1] if name not in _CRITERIA]
    if unknown:
        raise DedupError(f"Quality has no criterion {unknown[0]}, only {', '.join(_CRITERIA)} and hash.")


def columns_of(order: Sequence[str]) -> list[str]:
    """Return the columns of the data files that `quality_keys` reads."""
    return list(dict.fromkeys(["hash", *(name for one in order[:-1] for name in _CRITERIA[one].columns)]))


def quality_ranks(rows: pa.Table, order: Sequence[str]) -> dict[str, Keys]:
    """Return each row's rank by each criterion except the hash -> (N,) uint64, lower is better, in their order."""
    return {name: _ranks(rows, _CRITERIA[name]) for name in order[:-1]}


def _ranks(rows: pa.Table, criterion: _Criterion) -> Keys:
    return np.clip(criterion.rank(rows), 0, 2**criterion.bits - 1).astype(np.uint64)


def quality_keys(rows: pa.Table, order: Sequence[str]) -> Keys:
    """Return each row's place in the order of quality -> (N,) uint64, lower is better."""
    keys = np.zeros(len(rows), np.uint64)
    used = 0
    for name in order[:-1]:
        criterion = _CRITERIA[name]
        keys = keys << np.uint64(criterion.bits) | _ranks(rows, criterion)
        used += criterion.bits
    hashes = rows["hash"].to_numpy().view(np.uint64) ^ np.uint64(1 << 63)
    found: Keys = keys << np.uint64(64 - used) | hashes >> np.uint64(used) if used else hashes
    return found
