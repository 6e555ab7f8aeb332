"""The pages about a served release: its statistics, and the gallery of its near-duplicates.

Figures are read in a thread, of one release at a time, once for each version of it and of its side tables; until they
are known, the page says so and loads itself again. Hidden rows are left out of the gallery each time that it is shown,
so a new deny list is in force here, too. Its pictures come from their own hosts, as on the search page: copies would
have to be taken down.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

import numpy as np

from dataset.dedup.figures import Figures as DuplicateFigures
from dataset.dedup.figures import gather as gather_duplicates
from dataset.dedup.report_page import render as render_duplicates
from dataset.errors import DatasetError
from dataset.formats.releases import Release
from dataset.formats.side_tables import read_side_tables
from dataset.index.facets import SAFE_BELOW
from dataset.report.html import Site, document
from dataset.report.statistics import render_statistics
from dataset.search.errors import SearchError
from dataset.search.service import ServedIndex
from dataset.stats.domains import most_frequent_domains
from dataset.stats.duplicates import read_duplicates
from dataset.stats.figures import all_figures
from dataset.stats.gather import gather
from dataset.stats.units import units_of_release

MOST_ROWS = 50_000_000
"""Larger releases have no gallery here, as reading their table takes hours: `dataset dedup report` writes it."""
WAIT_SECONDS = 2.0
"""A page waits so long for its figures."""

SEARCH = "Search"


class PageKind(StrEnum):
    """A page's path."""

    STATISTICS = "statistics"
    DUPLICATES = "duplicates"


NAMES = {PageKind.STATISTICS: "Statistics", PageKind.DUPLICATES: "Near-duplicates"}


class _Closing(DatasetError):
    """The server ends while figures are read."""


class ReleasePages:
    """The pages of all served releases; `releases` opens the live version of each index's release."""

    def __init__(self, releases: Mapping[str, Callable[[], Release]]) -> None:
        """Raises: ReleaseError, StoreError when a release cannot be opened."""
        self._releases = dict(releases)
        self._offered = {name: _offered(open_release()) for name, open_release in self._releases.items()}
        self._reading: dict[tuple[str, PageKind], tuple[Hashable, asyncio.Task[Any]]] = {}
        self._one = asyncio.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Stop reading figures."""
        self._is_closed = True

    def links(self, index: str) -> dict[str, str]:
        """Return the addresses of an index's pages by name."""
        query = urlencode({"index": index})
        return {NAMES[kind]: f"{kind}?{query}" for kind in self._offered.get(index, ())}

    async def page(self, kind: PageKind, served: ServedIndex) -> str | None:
        """Return a page, or None while its figures are being read.

        Raises: SearchError: 404 when the index has no such page, 409 when its figures cannot be read.
        """
        index = served.engine.name
        if kind not in self._offered.get(index, ()):
            raise SearchError(404, f"The index {index} has no {NAMES[kind].lower()}.")
        try:
            release = await asyncio.to_thread(self._releases[index])
            figures = await self._figures(kind, index, release)
        except DatasetError as error:
            raise SearchError(409, str(error)) from error
        if figures is None:
            return None
        site = self.site(NAMES[kind], index)
        if kind is PageKind.DUPLICATES:
            return await asyncio.to_thread(_duplicates_page, figures, served, site)
        title = f"{release.record.name} {release.record.version}"
        return await asyncio.to_thread(render_statistics, title, figures, site=site)

    def waiting(self, kind: PageKind, index: str) -> str:
        """Return what is shown while figures are being read."""
        note = '<p class="note">The figures are being read. This page loads itself again.</p>'
        return document(f"{NAMES[kind]} of {index}", "", [note], site=self.site(NAMES[kind], index))

    def site(self, current: str, index: str) -> Site:
        """Return the pages of an index, for links between them."""
        search = f"./?{urlencode({'index': index})}"
        return Site({SEARCH: search, **self.links(index)}, current, search)

    async def _figures(self, kind: PageKind, index: str, release: Release) -> Any:
        known, task = self._reading.get((index, kind), ("", None))
        source = await asyncio.to_thread(_source, release)
        if task is None or known != source or (task.done() and task.exception()):
            task = asyncio.create_task(self._read(kind, release))
            self._reading[index, kind] = source, task
        done, _ = await asyncio.wait([task], timeout=WAIT_SECONDS)
        return task.result() if done else None

    async def _read(self, kind: PageKind, release: Release) -> Any:
        async with self._one:
            read = _duplicates if kind is PageKind.DUPLICATES else _statistics
            return await asyncio.to_thread(read, release, self._check)

    def _check(self, *_: object) -> None:
        if self._is_closed:
            raise _Closing("The server ends.")


def _offered(release: Release) -> tuple[PageKind, ...]:
    has_gallery = sum(release.record.rows.values()) <= MOST_ROWS and read_duplicates(release) is not None
    return (PageKind.STATISTICS, PageKind.DUPLICATES) if has_gallery else (PageKind.STATISTICS,)


def _source(release: Release) -> Hashable:
    """Return what figures depend on: the version of a release, and those of its side tables."""
    tables = read_side_tables(release)
    return release.record.version, *((name, table.generation) for name, table in sorted(tables.items()))


def _statistics(release: Release, check: Callable[..., None]) -> dict[str, Any]:
    gathered = gather(release.store, list(units_of_release(release)), threads=1, on_unit=check)
    return all_figures(gathered, None, most_frequent_domains(release), read_duplicates(release))


def _duplicates(release: Release, check: Callable[..., None]) -> DuplicateFigures:
    return gather_duplicates(release, threads=1, on_progress=check)


def _duplicates_page(figures: DuplicateFigures, served: ServedIndex, site: Site) -> str:
    ids = {one for group in figures.largest for one in (group.representative, *(each.id for each in group.members))}
    shown = np.array(sorted(ids), np.int64)
    shown = shown[served.screen.visible(served.engine, shown)]
    columns = [name for name in ("url", "punsafe") if name in served.engine.columns]
    rows = zip(shown.tolist(), served.engine.rows(shown, columns), strict=True)
    known = {one: row for one, row in rows if row is not None}
    groups = tuple(group for group in figures.largest if group.representative in known)
    pictures = {one: row["url"] for one, row in known.items() if row.get("url")}
    unsafe = {one for one, row in known.items() if (row.get("punsafe") or 0) >= SAFE_BELOW}
    return render_duplicates(replace(figures, largest=groups), pictures, unsafe, site)
