"""Near-duplicates among results: of rows that are nearly the same picture, the best is kept.

A result is left out if its cosine with a better result that was kept is high enough. So every row that is left out is
near one that is shown; chains, which clip-retrieval's components allow, are not.
"""

import numpy as np
import numpy.typing as npt

COLLAPSE_AT = 0.94
"""The cosine from which clip-retrieval takes two results for duplicates."""
_BLOCK = 256

Integers = npt.NDArray[np.int64]


def distinct(rows: npt.NDArray[np.float16], cosine: float, most: int) -> tuple[Integers, Integers]:
    """Return which of (n, D) float16 unit rows, best first, to keep, at most `most`, in order -> (m,) int64.

    The second array, (m,) int64, has for each how many rows it leaves out. A row that several could leave out counts
    for the best of them. Rows are looked at until `most` are kept, so later ones do not count.
    """
    kept: list[int] = []
    left_out: list[int] = []
    wide = np.empty((min(len(rows), most), rows.shape[1] if rows.ndim == 2 else 0), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float32)
        before = len(kept)
        is_left = np.zeros(len(block), bool)
        if before:
            near_kept = block @ wide[:before].T >= cosine
            best = near_kept.argmax(axis=1)
            is_left = near_kept[np.arange(len(block)), best]
            for by in best[is_left].tolist():
                left_out[by] += 1
        among = block @ block.T >= cosine
        chosen: list[int] = []
        for at in np.flatnonzero(~is_left).tolist():
            near = np.flatnonzero(among[at, chosen])
            if len(near):
                left_out[before + int(near[0])] += 1
                continue
            if len(kept) == most:
                return np.array(kept, np.int64), np.array(left_out, np.int64)
            chosen.append(at)
            wide[len(kept)] = block[at]
            kept.append(start + at)
            left_out.append(0)
    return np.array(kept, np.int64), np.array(left_out, np.int64)
