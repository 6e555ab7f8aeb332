"""Facets: the yes-or-no properties of rows that searches filter by, computed from the rows' numbers.

alive                    neither removed nor blanked
safe                     punsafe below 0.45, as Re-LAION-5B's research-safe; a row without punsafe is not safe
no-watermark             pwatermark below 0.8, as LAION-aesthetics
subset=, lang=, crawl=   one for each value
min-side=256 512 1024    both sides have so many pixels
aspect=wide square tall  width / height above 1.2, within 1/1.2 and 1.2, below
aesthetic=5 6 7          aesthetic score at least so much
representative           the best of its near-duplicates, or alone; where the release's near-duplicates are known
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

ALIVE, REPRESENTATIVE = "alive", "representative"
SAFE_BELOW = 0.45
WATERMARK_BELOW = 0.8
SIDES = (256, 512, 1024)
AESTHETIC = (5, 6, 7)
_SQUARE = 1.2
SCORES = ("punsafe", "pwatermark", "aesthetic")

Mask = npt.NDArray[np.bool_]


def facet_masks(numbers: npt.NDArray[np.void], categories: Mapping[str, tuple[str, ...]]) -> dict[str, Mask]:
    """Return which rows have each facet -> name: (N,) bool; facets that no row has are left out, but `alive`."""
    # Columns of these names in anyone's table may be of any type.
    names = numbers.dtype.names or ()
    columns = [name for name in names if numbers.dtype[name].kind in ("S" if name == "LANGUAGE" else "if")]
    masks: dict[str, Mask] = {ALIVE: np.ones(len(numbers), bool)}
    masks |= _score_masks({name: numbers[name] for name in SCORES if name in columns})
    for name in ("subset", "crawl"):
        if name in categories and name in names:
            masks |= {f"{name}={value}": numbers[name] == at for at, value in enumerate(categories[name])}
    if "LANGUAGE" in columns:
        known = [value for value in np.unique(numbers["LANGUAGE"]) if value]
        masks |= {f"lang={value.decode('ascii', 'replace')}": numbers["LANGUAGE"] == value for value in known}
    if "WIDTH" in columns and "HEIGHT" in columns:
        masks |= _size_masks(numbers["WIDTH"].astype(np.float64), numbers["HEIGHT"].astype(np.float64))
    return {name: mask for name, mask in masks.items() if name == ALIVE or mask.any()}


def _score_masks(scores: Mapping[str, npt.NDArray[Any]]) -> dict[str, Mask]:
    """Return the facets of tags; a row without a score (NaN) has none."""
    masks = {}
    if "punsafe" in scores:
        masks["safe"] = scores["punsafe"] < SAFE_BELOW
    if "pwatermark" in scores:
        masks["no-watermark"] = scores["pwatermark"] < WATERMARK_BELOW
    if "aesthetic" in scores:
        masks |= {f"aesthetic={score}": scores["aesthetic"] >= score for score in AESTHETIC}
    return masks


def _size_masks(width: npt.NDArray[Any], height: npt.NDArray[Any]) -> dict[str, Mask]:
    side = np.minimum(width, height)
    known = side > 0
    ratio = np.divide(width, height, out=np.ones_like(width), where=known)
    masks = {f"min-side={pixels}": side >= pixels for pixels in SIDES}
    masks["aspect=wide"] = known & (ratio > _SQUARE)
    masks["aspect=tall"] = known & (ratio < 1 / _SQUARE)
    masks["aspect=square"] = known & ~masks["aspect=wide"] & ~masks["aspect=tall"]
    return masks


def pack_masks(masks: Mapping[str, Mask]) -> npt.NDArray[np.uint8]:
    """Return the bitmaps of masks -> (facets, bytes); row p is bit p % 8 of byte p // 8."""
    return np.stack([np.packbits(mask, bitorder="little") for mask in masks.values()])


def count_by_list(masks: Mapping[str, Mask], sizes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return how many rows of each list have each facet -> (lists, facets)."""
    counts = [sum_by_list(mask, sizes) for mask in masks.values()]
    return np.stack(counts, axis=1).astype("<u4")


def sum_by_list(mask: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the sums of a mask over consecutive lists of these sizes -> (lists,)."""
    sums = np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))
    ends = np.cumsum(sizes, dtype=np.int64)
    found: npt.NDArray[np.int64] = sums[ends] - sums[ends - sizes]
    return found
