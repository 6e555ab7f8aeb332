"""What all routes share: the indexes, the encoder, the queue, and how a search goes through them."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from dataset.search.engine import Engine, Vectors, Where
from dataset.search.errors import SearchError
from dataset.search.listing import FIRST_DEPTH, Listing, ListingCache, Search, extend, grow
from dataset.search.metrics import Metrics
from dataset.search.screen import Screen
from dataset.search.terms import Sources
from dataset.search.work_queue import WorkQueue, cost_of


@dataclass(frozen=True, slots=True)
class ServedIndex:
    """An index with what is hidden in it."""

    engine: Engine
    screen: Screen


@dataclass(slots=True)
class Service:
    """The state of the server. `safe` is the mode of requests that do not say; None means that they cannot leave it."""

    indexes: Mapping[str, ServedIndex]
    sources: Sources
    queue: WorkQueue
    metrics: Metrics
    safe: bool = True
    may_leave_safe: bool = True
    listings: ListingCache = field(default_factory=ListingCache)

    def index(self, name: str | None) -> ServedIndex:
        """Return an index by its name; None means the first.

        Raises: SearchError (404) that names the indexes.
        """
        if name is None:
            return next(iter(self.indexes.values()))
        if (found := self.indexes.get(name)) is None:
            names = ", ".join(self.indexes)
            raise SearchError(404, f"There is no index {name[:100]!r}: there is {names}.", field="index")
        return found

    def is_safe(self, wish: bool | None) -> bool:
        """Return whether a request is answered in safe mode."""
        return self.safe if wish is None else wish or not self.may_leave_safe

    async def refresh(self) -> None:
        """Read new deny lists, which then are in force for every answer.

        Raises: DenyListError when one cannot be read; the earlier ones stay in force.
        """
        screens = {id(served.screen): served.screen for served in self.indexes.values()}
        changed = [await asyncio.to_thread(screen.refresh) for screen in screens.values()]
        if any(changed):
            self.listings.clear()

    async def search(
        self,
        served: ServedIndex,
        vector: Vectors,
        depth: int,
        finish: Callable[[Listing, Callable[[int], None]], Any],
        *,
        modality: str,
        where: Where | None,
        collapse: bool,
        first_depth: int | None = None,
        cache_key: Hashable | None = None,
    ) -> Any:
        """Find `depth` results, and return what `finish` makes of the listing, in one of the engine's threads.

        `finish` gets a function, too, that makes the listing longer. The first search has the depth `first_depth`
        (None: that of `dataset.search.listing`). With a `cache_key` the listing is kept for later pages.

        Raises: SearchError.
        """
        engine = served.engine
        search = Search(engine, engine.name, engine.generation, modality, where, collapse)
        known = self.listings.get(cache_key) if cache_key is not None else None
        item = _Item(vector, replace(known) if known else Listing(), depth, finish)
        first = None if item.listing.searched else first_depth or FIRST_DEPTH
        work = partial(_work, search=search, first=first, screen=served.screen, metrics=self.metrics)
        key = None if first is None else (search, first)
        result = await self.queue.submit(work, item, key=key, cost=cost_of(depth))
        if cache_key is not None:
            self.listings.put(cache_key, item.listing)
        return result


@dataclass(frozen=True, slots=True)
class _Item:
    vector: Vectors
    listing: Listing
    depth: int
    finish: Callable[[Listing, Callable[[int], None]], Any]


def _work(items: Sequence[_Item], *, search: Search, first: int | None, screen: Screen, metrics: Metrics) -> list[Any]:
    if first is not None:
        queries = np.stack([item.vector for item in items])
        with metrics.timed("knn_index_time"):
            found = search.engine.search(
                queries, first, modality=search.modality, where=search.where, collapse=search.collapse
            )
        for item, one in zip(items, found, strict=True):
            extend(item.listing, one, first, item.vector, search, screen)
    return [_finished(item, search, screen, metrics) for item in items]


def _finished(item: _Item, search: Search, screen: Screen, metrics: Metrics) -> Any:
    def longer(depth: int) -> None:
        grow(item.listing, depth, item.vector, search, screen, metrics)

    try:
        longer(item.depth)
        return item.finish(item.listing, longer)
    except Exception as error:  # noqa: BLE001 - belongs to this request, not to those searched with it
        return error
