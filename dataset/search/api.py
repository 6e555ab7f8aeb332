"""Our own API: queries of several terms with filters and pages, rows, counts and facets. `openapi` describes it."""

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from dataset.index.collapse import COLLAPSE_AT
from dataset.search.answers import to_json
from dataset.search.bodies import Fields
from dataset.search.engine import Count, Engine
from dataset.search.errors import SearchError
from dataset.search.listing import MOST_DEPTH, Listing
from dataset.search.near_duplicates import NearQuestion, near_duplicates
from dataset.search.questions import (
    DEFAULT_COLUMNS,
    GROUP_SIZE,
    Page,
    Question,
    parse_near,
    parse_page,
    parse_question,
    parse_terms,
    read_cursor,
    write_cursor,
)
from dataset.search.service import ServedIndex, Service
from dataset.search.terms import query_vector


class SearchApi:
    """The answers of /api, as JSON bytes."""

    def __init__(
        self,
        service: Service,
        *,
        has_reports: bool = False,
        has_traces: bool = False,
        links: Callable[[str], Mapping[str, str]] = lambda _: {},
    ) -> None:
        """`links` returns the addresses of the pages about an index."""
        self._service = service
        self._links = links
        self._has_reports, self._has_traces = has_reports, has_traces

    def indexes(self) -> bytes:
        """Return what can be searched, and how."""
        sources = self._service.sources
        loaded = sources.encoder.loaded if sources.encoder else None
        return to_json(
            {
                "indexes": [
                    _described(served.engine, loaded) | {"pages": self._links(served.engine.name)}
                    for served in self._service.indexes.values()
                ],
                "near_duplicates_from": COLLAPSE_AT,
                "safe": self._service.safe,
                "may_leave_safe": self._service.may_leave_safe,
                "urls": sources.fetcher.is_there,
                "reports": self._has_reports,
                "traces": self._has_traces,
            }
        )

    async def search(self, given: Mapping[str, Any]) -> bytes:
        """Answer a query with a page of results.

        Raises: SearchError.
        """
        fields = Fields(given)
        question, page = parse_question(fields), parse_page(fields)
        fields.finish()
        served = self._service.index(question.index)
        engine = served.engine
        check_modality(question.modality, engine)
        columns = check_columns(page.columns, engine)
        where = engine.parse_filter(question.filters, safe=self._service.is_safe(question.safe))
        digest = await asyncio.to_thread(question.digest, engine.generation)  # pictures are megabytes
        start = read_cursor(page.cursor, digest)
        vector = await query_vector(question.terms, engine, self._service.sources, question.modality)
        count = None
        if page.count:
            work = partial(_counts, engine=engine, modality=question.modality)
            count = await self._service.queue.submit(work, (where, vector, question.at_least), cost=5)
        depth = min(MOST_DEPTH, start + page.limit)
        answer: bytes = await self._service.search(
            served,
            vector,
            depth + 1,  # shows whether there is a next page
            partial(_page, question=question, page=page, start=start, columns=columns, engine=engine, digest=digest,
                    count=count),
            modality=question.modality,
            where=where,
            collapse=question.collapse,
            cache_key=digest,
        )  # fmt: skip
        return answer

    async def count(self, given: Mapping[str, Any]) -> bytes:
        """Return how many rows a filter, or a filter and a query, admit.

        Raises: SearchError.
        """
        fields = Fields(given)
        question = parse_question(fields, needs_terms=False)
        fields.finish()
        engine = self._service.index(question.index).engine
        check_modality(question.modality, engine)
        where = engine.parse_filter(question.filters, safe=self._service.is_safe(question.safe))
        vector = None
        if question.terms:
            vector = await query_vector(question.terms, engine, self._service.sources, question.modality)
        work = partial(_counts, engine=engine, modality=question.modality)
        found = await self._service.queue.submit(work, (where, vector, question.at_least), cost=5)
        return to_json(asdict(found))

    async def embed(self, given: Mapping[str, Any]) -> bytes:
        """Return the vector of a query's terms.

        Raises: SearchError.
        """
        fields = Fields(given)
        engine = self._service.index(fields.get("index", str)).engine
        terms, modality = parse_terms(fields), fields.get("modality", str, "image")
        fields.finish()
        vector = await query_vector(terms, engine, self._service.sources, modality)
        return to_json({"vector": vector.tolist(), "model": engine.model})

    async def row(self, index: str | None, row_id: int) -> bytes:
        """Return all columns of a row.

        Raises: SearchError (404).
        """
        name = self._service.index(index).engine.name
        return to_json({"id": row_id, "index": name, "row": await self.row_of(index, row_id)})

    async def row_of(self, index: str | None, row_id: int) -> dict[str, Any]:
        """Return all columns of a row that may be shown.

        Raises: SearchError (404).
        """
        served = self._service.index(index)
        ids = np.array([row_id], np.int64)
        rows: list[dict[str, Any]] = await self._service.queue.submit(partial(_rows, served=served), ids)
        if not rows:
            raise SearchError(404, f"The index {served.engine.name} has no row {row_id}.")
        return rows[0]

    async def embedding(self, index: str | None, row_id: int, modality: str) -> bytes:
        """Return a row's vector as a .npy file, (D,) float16.

        Raises: SearchError (404).
        """
        served = self._service.index(index)
        check_modality(modality, served.engine)
        ids = np.array([row_id], np.int64)
        if not await self._service.queue.submit(partial(_rows, served=served), ids):
            raise SearchError(404, f"The index {served.engine.name} has no row {row_id}.")
        row = (await asyncio.to_thread(served.engine.embeddings, ids, modality))[0]
        file = io.BytesIO()
        np.save(file, row.astype("<f2"))
        return file.getvalue()

    async def near_duplicates(self, row_id: int, given: Mapping[str, Any]) -> bytes:
        """Return the near-duplicates of a row.

        Raises: SearchError: 400 that names the field, 404 for a row that is not there.
        """
        fields = Fields(given)
        asked = parse_near(fields)
        fields.finish()
        served = self._service.index(asked.index)
        engine = served.engine
        check_modality(asked.modality, engine)
        question = NearQuestion(
            row=row_id,
            where=engine.parse_filter(asked.filters, safe=self._service.is_safe(asked.safe)),
            modality=asked.modality,
            limit=asked.limit,
            columns=check_columns(asked.columns, engine),
        )
        found = await self._service.queue.submit(partial(near_duplicates, served=served), question, cost=5)
        if found is None:
            raise SearchError(404, f"The index {engine.name} has no row {row_id}.")
        return to_json(found)

    async def facets(self, index: str | None) -> bytes:
        """Return the values by which an index can be filtered, with their counts."""
        engine = self._service.index(index).engine
        return to_json(await asyncio.to_thread(engine.facets))


def check_modality(modality: str, engine: Engine) -> None:
    """Raise SearchError (409) when an index has no vectors of a modality."""
    if modality not in engine.modalities:
        raise SearchError(409, f"The index {engine.name} has no {modality} vectors: set modality.", field="modality")


def check_columns(asked: Sequence[str] | None, engine: Engine) -> tuple[str, ...]:
    """Return the columns to read, by default those of DEFAULT_COLUMNS that an index has.

    Raises: SearchError (400) that names the columns of the index.
    """
    if asked is None:
        return tuple(name for name in DEFAULT_COLUMNS if name in engine.columns)
    if unknown := [name for name in asked if name not in engine.columns]:
        known = ", ".join(engine.columns)
        raise SearchError(400, f"There is no column {unknown[0][:100]!r}: there is {known}.", field="columns")
    return tuple(asked)


def _described(engine: Engine, loaded: Any) -> dict[str, Any]:
    encodes = loaded is not None and (not engine.model_sha256 or loaded.sha256 == engine.model_sha256)
    return {
        "name": engine.name,
        "rows": len(engine),
        "dimensions": engine.dimensions,
        "modalities": engine.modalities,
        "columns": engine.columns,
        "model": engine.model,
        "generation": engine.generation,
        "texts_and_pictures": bool(encodes),
        "can_be_safe": engine.can_be_safe,
        "has_groups": engine.has_groups,
    }


def _counts(items: Sequence[Any], *, engine: Engine, modality: str) -> list[Count]:
    return [engine.count(where, vector, at_least, modality) for where, vector, at_least in items]


def _rows(items: Sequence[Any], *, served: ServedIndex) -> list[list[dict[str, Any]]]:
    found = []
    for ids in items:
        visible = served.screen.visible(served.engine, ids)
        rows = served.engine.rows(ids[visible], served.engine.columns)
        found.append([row for row in rows if row is not None])
    return found


def _page(
    listing: Listing,
    _longer: Callable[[int], None],
    *,
    question: Question,
    page: Page,
    start: int,
    columns: Sequence[str],
    engine: Engine,
    digest: str,
    count: Count | None,
) -> bytes:
    """Return a page of a listing as JSON."""
    end = start + page.limit
    similar = len(listing.ids)
    if question.at_least is not None:
        similar = int((listing.similarities >= question.at_least).sum())
    end, has_more = min(end, similar), similar > end
    ids = listing.ids[start:end]
    rows = engine.rows(ids, [*columns, GROUP_SIZE] if engine.has_groups else columns)
    results: list[dict[str, Any]] = [
        {"id": id_, "similarity": similarity, "row": row}
        for id_, similarity, row in zip(ids.tolist(), listing.similarities[start:end].tolist(), rows, strict=True)
    ]
    if engine.has_groups:
        for result in results:
            if result["row"] is not None:
                row = result["row"]
                result[GROUP_SIZE] = row[GROUP_SIZE] if GROUP_SIZE in columns else row.pop(GROUP_SIZE)
    if question.collapse:
        for result, left_out in zip(results, listing.left_out[start:end].tolist(), strict=True):
            result["near_duplicates"] = left_out
    if page.embeddings:
        for result, vector in zip(results, engine.embeddings(ids, question.modality).tolist(), strict=True):
            result["embedding"] = vector
    return to_json(
        {
            "index": engine.name,
            "generation": engine.generation,
            "results": [result for result in results if result["row"] is not None],
            "cursor": write_cursor(digest, end) if has_more and end < MOST_DEPTH else None,
            "count": asdict(count) if count else None,
        }
    )
