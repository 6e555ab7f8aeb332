"""The most frequent values of a column in bounded memory.

The values of a unit of work (a file, or some parts) are counted exactly by their 64-bit hashes; then the KEPT most
frequent are kept, with their texts. A merge adds counts. `missed` bounds the error: a value that occurs n times has a
count of at least n - missed. When few candidates are left, they are counted again in the units that dropped them
(`listed.py`), so the counts that are shown are exact.

Source: mergeable summaries (Agarwal and others 2012). Rejected: DataSketches' frequent_strings_sketch, which takes one
item per call and whose error grows with all rows; here it grows with the number of units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dataset.stats.hashing import Hashes, Ints

KEPT = 1_024
"""Values kept per unit: more than the 100 that are shown, because these need not be among the most frequent of each
unit.
"""
MERGED = 65_536
"""Values kept after a merge; about 10 MB of captions."""


@dataclass(frozen=True, slots=True)
class Frequent:
    """Values by hash in ascending order, their counts, and the texts of most of them; see the module's docstring."""

    hashes: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))  # (K,)
    counts: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # (K,)
    texts: Mapping[int, str] = field(default_factory=dict)
    missed: int = 0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Frequent)
            and np.array_equal(self.hashes, other.hashes)
            and np.array_equal(self.counts, other.counts)
            and (self.texts, self.missed) == (other.texts, other.missed)
        )

    def __add__(self, other: "Frequent") -> "Frequent":
        hashes, inverse = np.unique(np.concatenate([self.hashes, other.hashes]), return_inverse=True)
        counts = np.zeros(len(hashes), np.int64)
        np.add.at(counts, inverse, np.concatenate([self.counts, other.counts]))
        return _most_frequent(hashes, counts, {**self.texts, **other.texts}, self.missed + other.missed, MERGED)

    def top(self, count: int) -> list[tuple[int, str | None, int]]:
        """Return the `count` most frequent as (hash, text if known, count); ties in the order of their hashes."""
        chosen = np.lexsort((self.hashes, -self.counts))[:count]
        return [(int(self.hashes[row]), self.texts.get(int(self.hashes[row])), int(self.counts[row])) for row in chosen]


class FrequencyCounter:
    """Count one unit's values, batch by batch; memory is 8 bytes per value until `finish`.

    It keeps the texts of values that occur more than once in a batch: others are not among the most frequent of all.
    """

    def __init__(self) -> None:
        self._batches: list[Hashes] = []
        self._texts: dict[int, str] = {}

    def add(self, hashes: Hashes, texts_of: Callable[[Ints], list[str]]) -> None:
        """Count a batch; `texts_of` returns the texts of rows, by their positions in `hashes`."""
        self._batches.append(hashes)
        found = frequent_hashes([hashes])
        frequent = found.hashes[found.counts > 1] if found.missed else found.hashes
        new = np.array([each for each in frequent.tolist() if each not in self._texts], np.uint64)
        if not len(new):
            return
        place = np.searchsorted(new, hashes).clip(0, len(new) - 1)  # np.isin sorts all hashes
        rows = np.flatnonzero(new[place] == hashes)
        rows = rows[np.unique(place[rows], return_index=True)[1]]
        self._texts.update(zip(hashes[rows].tolist(), texts_of(rows), strict=True))

    def finish(self) -> Frequent:
        """Return the unit's most frequent values."""
        found = frequent_hashes(self._batches)
        texts = {each: self._texts[each] for each in found.hashes.tolist() if each in self._texts}
        return Frequent(found.hashes, found.counts, texts, found.missed)


def frequent_hashes(batches: list[Hashes]) -> Frequent:
    """Count hashes and keep the most frequent, without texts."""
    if not batches:
        return Frequent()
    ordered = np.sort(np.concatenate(batches))
    first = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1]) if len(ordered) else np.empty(0, int)
    counts = np.diff(first, append=len(ordered)).astype(np.int64)
    if len(first) <= KEPT:
        return Frequent(ordered[first], counts)
    repeated = counts > 1  # sorting by count is slow, and most captions occur only once
    if np.count_nonzero(repeated) >= KEPT:
        first, counts = first[repeated], counts[repeated]
    return _most_frequent(ordered[first], counts, {}, 0, KEPT, missed_more=1)


def _most_frequent(
    hashes: Hashes, counts: Ints, texts: Mapping[int, str], missed: int, limit: int, missed_more: int = 0
) -> Frequent:
    """Keep `limit` values; the most frequent of the others is what may be missed beyond `missed`."""
    if len(hashes) <= limit:
        return Frequent(hashes, counts, texts, missed + missed_more)
    order = np.lexsort((hashes, -counts))
    kept = np.sort(order[:limit])  # hashes are ascending, so rows are too
    dropped = max(missed_more, int(counts[order[limit]]))
    known = {each: texts[each] for each in hashes[kept].tolist() if each in texts}
    return Frequent(hashes[kept], counts[kept], known, missed + dropped)
