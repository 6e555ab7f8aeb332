"""The results of one query, as deep as they were asked for, and the cache from which later pages come.

Invariant: a listing only grows at its end: a result, or group of near-duplicates, that was shown on one page is on no
other. The index is searched for k = 64, 256, 1,024, … results; a deeper search may find a row that belongs further up,
which then comes next. The steps depend on the depth alone, so a listing that was forgotten is made again as it was.

Hidden rows (`dataset.search.screen`) are left out before they are counted, so pages are full. In the place of a hidden
row that stands for near-duplicates comes the one of these that is nearest to the query.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from dataset.search.engine import Engine, Found, Ids, Vectors, Where
from dataset.search.metrics import Metrics
from dataset.search.screen import Screen

FIRST_DEPTH = 64
"""A page of 40, and some to replace hidden rows."""
GROWTH = 4
MOST_DEPTH = 100_000
MOST_CACHED_RESULTS = 2_000_000
"""About 60 MB."""
MOST_CACHED_LISTINGS = 10_000
_STAND_INS = 1_000
"""Near-duplicates of a hidden row that are looked at."""


@dataclass(frozen=True, slots=True)
class Search:
    """A search of an index, without its vector: what has to be equal for queries to be searched together."""

    engine: Engine = field(hash=False, compare=False)
    index: str
    generation: str
    modality: str
    where: Where | None
    collapse: bool


@dataclass(slots=True)
class Listing:
    """Visible results, the best first, and how many near-duplicates were left out for each.

    `searched` is the depth of the last search; -1 when there are no more rows.
    """

    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    similarities: Vectors = field(default_factory=lambda: np.empty(0, np.float32))
    left_out: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    groups: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    searched: int = 0

    def has(self, depth: int) -> bool:
        """Return whether the first `depth` results are known, or all that there are."""
        return self.searched == -1 or len(self.ids) >= depth


def next_depth(searched: int) -> int:
    """Return the depth of the search after one of this depth."""
    return min(MOST_DEPTH, searched * GROWTH) if searched else FIRST_DEPTH


def extend(listing: Listing, found: Found, depth: int, vector: Vectors, search: Search, screen: Screen) -> None:
    """Add the results of a search of this depth, which may know more near-duplicates of those that are there."""
    _, here, there = np.intersect1d(listing.groups, found.groups, assume_unique=True, return_indices=True)
    left_out = listing.left_out.copy()
    left_out[here] = np.maximum(left_out[here], found.left_out[there])
    is_new = ~np.isin(found.groups, listing.groups) if len(listing.ids) else np.ones(len(found.ids), bool)
    new = np.flatnonzero(is_new)
    ids, similarities = found.ids[new], found.similarities[new]
    shown = screen.visible(search.engine, ids)
    for at in np.flatnonzero(~shown & (found.left_out[new] > 0)).tolist():
        other = _nearest_of_group(int(ids[at]), vector, search, screen)
        if other is not None and other[0] not in ids and other[0] not in listing.ids:
            ids[at], similarities[at] = other
            shown[at] = True
    order = np.flatnonzero(shown)
    order = order[np.argsort(-similarities[order], kind="stable")]
    listing.ids = np.concatenate([listing.ids, ids[order]])
    listing.similarities = np.concatenate([listing.similarities, similarities[order]])
    listing.left_out = np.concatenate([left_out, found.left_out[new[order]]])
    listing.groups = np.concatenate([listing.groups, found.groups[new[order]]])
    listing.searched = -1 if len(found.ids) < depth or depth >= MOST_DEPTH else depth


def _nearest_of_group(row: int, vector: Vectors, search: Search, screen: Screen) -> tuple[int, float] | None:
    """Return the visible near-duplicate of a hidden row that is nearest to a query, and its similarity."""
    near = search.engine.near_duplicates(row, search.where, _STAND_INS, search.modality)
    if near is None:
        return None
    ids = near.ids[screen.visible(search.engine, near.ids)]
    if not len(ids):
        return None
    cosines = search.engine.embeddings(ids, search.modality).astype(np.float32) @ (vector / np.linalg.norm(vector))
    best = int(cosines.argmax())
    return int(ids[best]), float(cosines[best])


def grow(listing: Listing, depth: int, vector: Vectors, search: Search, screen: Screen, metrics: Metrics) -> None:
    """Search until the listing has `depth` results or there are no more."""
    while not listing.has(depth):
        step = next_depth(listing.searched)
        with metrics.timed("knn_index_time"):
            found = search.engine.search(
                vector[None], step, modality=search.modality, where=search.where, collapse=search.collapse
            )[0]
        extend(listing, found, step, vector, search, screen)


class ListingCache:
    """The listings of recent queries, by query; used from the event loop only."""

    def __init__(self) -> None:
        self._listings: OrderedDict[Hashable, Listing] = OrderedDict()
        self._results = 0

    def get(self, key: Hashable) -> Listing | None:
        """Return the listing of a query, if it is known."""
        if (listing := self._listings.get(key)) is not None:
            self._listings.move_to_end(key)
        return listing

    def put(self, key: Hashable, listing: Listing) -> None:
        """Keep a listing, and forget the oldest ones beyond the limit."""
        if (earlier := self._listings.pop(key, None)) is not None:
            self._results -= len(earlier.ids)
        self._listings[key] = listing
        self._results += len(listing.ids)
        while len(self._listings) > 1 and (
            self._results > MOST_CACHED_RESULTS or len(self._listings) > MOST_CACHED_LISTINGS
        ):
            _, forgotten = self._listings.popitem(last=False)
            self._results -= len(forgotten.ids)

    def clear(self) -> None:
        """Forget everything; called when the deny list has changed."""
        self._listings.clear()
        self._results = 0
