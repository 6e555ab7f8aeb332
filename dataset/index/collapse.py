"""Near-duplicates among results: of rows that are nearly the same picture, the best is kept.

A result is left out if its cosine with a better result that was kept is high enough. So every row that is left out is
near one that is shown; chains, which clip-retrieval's components allow, are not.
"""

import numpy as np
import numpy.typing as npt

_BLOCK = 256


def distinct(rows: npt.NDArray[np.float16], cosine: float, most: int) -> npt.NDArray[np.int64]:
    """Return which of (n, D) float16 unit rows, best first, to keep, at most `most`, in order -> (m,) int64."""
    kept: list[int] = []
    wide = np.empty((min(len(rows), most), rows.shape[1] if rows.ndim == 2 else 0), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float32)
        near_kept = (block @ wide[: len(kept)].T >= cosine).any(axis=1) if kept else np.zeros(len(block), bool)
        among = block @ block.T >= cosine
        chosen: list[int] = []
        for at in np.flatnonzero(~near_kept).tolist():
            if not among[at, chosen].any():
                if len(kept) == most:
                    return np.array(kept, np.int64)
                chosen.append(at)
                wide[len(kept)] = block[at]
                kept.append(start + at)
    return np.array(kept, np.int64)
