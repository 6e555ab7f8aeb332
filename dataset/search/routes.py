"""The paths of the server, and the handlers that only pass a request on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dataset import strict_json
from dataset.search.answers import Entry, Handler, ready, to_json
from dataset.search.api import SearchApi
from dataset.search.bodies import BodyReader, Fields
from dataset.search.clip_retrieval import ClipRetrieval
from dataset.search.errors import SearchError
from dataset.search.export_routes import ExportRoutes
from dataset.search.exports import Exports
from dataset.search.openapi import description
from dataset.search.operator_routes import OperatorRoutes
from dataset.search.options import SiteOptions
from dataset.search.page_routes import page_routes
from dataset.search.release_pages import ReleasePages
from dataset.search.service import Service

log = logging.getLogger("shoal.search")


class Routes:
    """The handlers of all routes, and their table."""

    def __init__(self, service: Service, options: SiteOptions, exports: Exports, pages: ReleasePages) -> None:
        self._service = service
        self._options = options
        self._clip = ClipRetrieval(service, options.columns, options.ratings)
        self._pages = pages
        self._api = SearchApi(
            service,
            has_reports=options.reports is not None,
            has_traces=options.trace is not None and options.operator_token is not None,
            links=pages.links,
        )
        self._bodies = BodyReader()
        self._exports = ExportRoutes(service, exports, self._bodies)

    def table(self) -> list[BaseRoute]:
        """Return all routes; those of operators only if there is a token."""
        own: list[Entry] = [
            ("GET", "/api/indexes", self._indexes),
            ("POST", "/api/search", self._search),
            ("POST", "/api/count", self._posted(self._api.count)),
            ("POST", "/api/embed", self._posted(self._api.embed)),
            ("GET", "/api/facets", self._facets),
            ("GET", "/api/rows/{id:int}", self._row),
            ("GET", "/api/rows/{id:int}/embedding", self._embedding),
            ("POST", "/api/rows/{id:int}/near-duplicates", self._near_duplicates),
            *self._exports.entries(),
            ("GET", "/openapi.json", self._openapi),
            ("GET", "/healthz", self._healthz),
            ("GET", "/metrics", self._metrics),
            ("GET", "/indices-list", self._indices_list),
            ("GET", "/metrics-summary", self._metrics_summary),
            ("GET", "/config.json", self._config),
            ("POST", "/knn-service", self._knn),
            ("POST", "/", self._knn),
            ("POST", "/metadata", self._posted(self._clip.metadata)),
        ]
        if self._options.reports is not None:
            own.append(("POST", "/api/reports", self._report))
        if self._options.operator_token is not None:
            own += OperatorRoutes(self._service, self._options, self._bodies, self._options.operator_token).entries()
        paths: dict[str, dict[str, Handler]] = {}
        for method, path, handler in own:
            paths.setdefault(path, {})[method] = handler
        table: list[BaseRoute] = [Route(path, _by_method(handlers)) for path, handlers in paths.items() if path != "/"]
        return [
            *table,
            Route("/", self._knn, methods=["POST"]),
            *page_routes(self._options.page, self._service, self._pages),
        ]

    def trouble(self) -> str | None:
        """Return why the server is not healthy, or None."""
        encoder = self._service.sources.encoder
        return "the model's process does not run" if encoder is not None and not encoder.is_up else None

    def _posted(self, answer: Callable[[Mapping[str, Any]], Awaitable[bytes]]) -> Handler:
        async def handler(request: Request) -> Response:
            return ready(await answer(await self._bodies.object(request)))

        return handler

    async def _knn(self, request: Request) -> Response:
        given = await self._bodies.object(request)
        self._log(given, "knn-service")
        return ready(await self._clip.knn(given))

    async def _search(self, request: Request) -> Response:
        given = await self._bodies.object(request)
        self._log(given, "search")
        return ready(await self._api.search(given))

    def _log(self, given: Mapping[str, Any], route: str) -> None:
        """Log a query, if the operator asked for it; pictures and vectors are left out."""
        if self._options.log_queries:
            log.info("search.query route=%s query=%s", route, strict_json.dumps(_shortened(given)))

    async def _indexes(self, _: Request) -> Response:
        return ready(self._api.indexes())

    async def _facets(self, request: Request) -> Response:
        return ready(await self._api.facets(request.query_params.get("index")))

    async def _row(self, request: Request) -> Response:
        return ready(await self._api.row(request.query_params.get("index"), request.path_params["id"]))

    async def _near_duplicates(self, request: Request) -> Response:
        given = await self._bodies.object(request)
        return ready(await self._api.near_duplicates(request.path_params["id"], given))

    async def _embedding(self, request: Request) -> Response:
        asked = request.query_params
        data = await self._api.embedding(asked.get("index"), request.path_params["id"], asked.get("modality", "image"))
        return Response(data, media_type="application/octet-stream")

    async def _report(self, request: Request) -> Response:
        fields = Fields(await self._bodies.object(request))
        index, row_id = fields.get("index", str), fields.integer("id", low=0, high=2**53)
        reason, contact = fields.get("reason", str, ""), fields.get("contact", str, "")
        fields.finish()
        if row_id is None:
            raise SearchError(400, "id is missing.", field="id")
        row = await self._api.row_of(index, row_id)
        assert self._options.reports is not None
        name = await asyncio.to_thread(self._options.reports.file, row, reason, contact)
        return Response(to_json({"request": name}), 202, media_type="application/json")

    async def _openapi(self, _: Request) -> Response:
        return ready(to_json(description(operator=self._options.operator_token is not None,
                                          reports=self._options.reports is not None,
                                          trace=self._options.trace is not None)))  # fmt: skip

    async def _healthz(self, _: Request) -> Response:
        reason = self.trouble()
        return JSONResponse({"healthy": reason is None, "reason": reason}, 503 if reason else 200)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._service.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _metrics_summary(self, _: Request) -> Response:
        return Response(self._service.metrics.summary(), media_type="text/plain")

    async def _indices_list(self, _: Request) -> Response:
        return ready(self._clip.indices())

    async def _config(self, request: Request) -> Response:
        config = {"defaultBackend": str(request.base_url), "defaultIndex": "", "urlColumn": "url"}
        return Response(strict_json.dumps(config), media_type="text/html")


def _by_method(handlers: Mapping[str, Handler]) -> type:
    """Return an endpoint that answers each method with its handler, and others with 405."""

    def method(handler: Handler) -> Callable[[Any, Request], Awaitable[Response]]:
        async def call(_: Any, request: Request) -> Response:
            return await handler(request)

        return call

    return type("Endpoint", (HTTPEndpoint,), {name.lower(): method(handler) for name, handler in handlers.items()})


def _shortened(value: object) -> object:
    """Return a query without the bytes of pictures and the numbers of vectors."""
    match value:
        case dict():
            return {name: _shortened(inner) for name, inner in value.items()}
        case list() if value and isinstance(value[0], int | float):
            return f"[{len(value)} numbers]"
        case list():
            return [_shortened(inner) for inner in value]
        case str() if len(value) > 500:
            return value[:500] + "…"
    return value
