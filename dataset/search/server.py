"""The HTTP server: routes, errors as JSON, quotas, and connections that nobody can hold for ever."""

import asyncio
import hmac
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.search.api import SearchApi, check_columns, check_question, to_json
from dataset.search.bodies import BodyReader, Fields
from dataset.search.clip_retrieval import DEFAULT_COLUMNS, ClipRetrieval
from dataset.search.errors import SearchError
from dataset.search.export_files import MEDIA_TYPES, ExportFormat
from dataset.search.exports import MOST_ROWS, Exports, ExportState
from dataset.search.openapi import description
from dataset.search.questions import parse_question
from dataset.search.quota import Quota
from dataset.search.reports import Reports
from dataset.search.service import Service
from dataset.search.terms import query_vector

log = logging.getLogger("shoal.search")

PAGE = Path(__file__).with_name("page")
MOST_CONNECTIONS = 1_000
MOST_OF_ADDRESS = 256
"""Connections; so one address cannot take all."""
REQUEST_SECONDS = 10.0
"""For the head of a request from its first byte, or from the start of a connection; uvicorn would wait for ever."""
WRITE_SECONDS = 30.0
"""A client that reads nothing for this long is disconnected."""
CLOSING_SECONDS = 5
UNMETERED = frozenset({"/healthz", "/metrics"})
SECURITY = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
OUR_PAGE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob: http: https:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
}
"""Our page loads pictures from anywhere, and nothing else; another page may need more."""

Handler = Callable[[Request], Awaitable[Response]]


class SearchProtocol(H11Protocol):
    """HTTP/1.1 that closes connections which send no whole request, or read no answer, and those beyond
    MOST_OF_ADDRESS.
    """

    by_address: Counter[str] = Counter()  # noqa: RUF012 - connections of this process
    proxies: frozenset[str] = frozenset()
    """Addresses that may have any number."""

    _stalled: asyncio.TimerHandle | None = None
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = str((transport.get_extra_info("peername") or ("",))[0])
        self.by_address[self._address] += 1
        if self.by_address[self._address] > MOST_OF_ADDRESS and self._address not in self.proxies:
            transport.close()
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:  # the head of a request is complete
            self._forget_waiting()
        elif self._waiting is None:
            self._await_request()

    def _await_request(self) -> None:
        self._waiting = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _forget_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(WRITE_SECONDS, self._reset)

    def _reset(self) -> None:
        """Close the connection with a reset: otherwise the kernel would keep the unread bytes."""
        line = self.transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self.by_address[self._address] -= 1
        if not self.by_address[self._address]:
            del self.by_address[self._address]
        self._forget_waiting()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions:
    """What the operator decides. `page` is served under /; None means our own."""

    columns: Sequence[str] = DEFAULT_COLUMNS
    cors: Sequence[str] = ()
    per_second: float = 20.0
    burst: int = 100
    page: Path | None = None
    operator_token: str | None = None
    log_queries: bool = False
    exports: Path | None = None
    trace: Callable[[str, int], Mapping[str, Any]] | None = None
    """Of an index's name and an id."""
    reports: Reports | None = None
    """Where reports go; without it nobody can report a row."""


@dataclass(slots=True)
class Site:
    """The application and what has to be closed after it."""

    app: ASGIApp
    exports: Exports


def make_site(service: Service, options: SiteOptions) -> Site:
    """Return the application of a service."""
    exports = Exports(options.exports)
    routes = _Routes(service, options, exports)
    table = routes.table()
    inner = Starlette(
        routes=table,
        exception_handlers={SearchError: _refused, HTTPException: _http_error, Exception: _failed},  # type: ignore[dict-item]
    )
    headers = SECURITY if options.page else SECURITY | OUR_PAGE
    app: ASGIApp = _Guard(inner, service, Quota(options.per_second, options.burst), headers)
    if options.cors:
        app = CORSMiddleware(app, allow_origins=[*options.cors], allow_methods=["*"], allow_headers=["*"])
    return Site(app, exports)


class _Routes:
    """The handlers."""

    def __init__(self, service: Service, options: SiteOptions, exports: Exports) -> None:
        self._service = service
        self._options = options
        self._exports = exports
        self._clip = ClipRetrieval(service, options.columns)
        self._api = SearchApi(service, has_reports=options.reports is not None)
        self._bodies = BodyReader()

    def table(self) -> list[BaseRoute]:
        """Return all routes; those of operators only if there is a token."""
        own: list[tuple[str, str, Handler]] = [
            ("GET", "/api/indexes", self._indexes),
            ("POST", "/api/search", self._search),
            ("POST", "/api/count", self._posted(self._api.count)),
            ("POST", "/api/embed", self._posted(self._api.embed)),
            ("GET", "/api/facets", self._facets),
            ("GET", "/api/rows/{id:int}", self._row),
            ("GET", "/api/rows/{id:int}/embedding", self._embedding),
            ("POST", "/api/exports", self._export),
            ("GET", "/api/exports/{name}", self._export_status),
            ("DELETE", "/api/exports/{name}", self._export_cancel),
            ("GET", "/api/exports/{name}/file", self._export_file),
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
            own += self._operator_routes()
        paths: dict[str, dict[str, Handler]] = {}
        for method, path, handler in own:
            paths.setdefault(path, {})[method] = handler
        table: list[BaseRoute] = [Route(path, _by_method(handlers)) for path, handlers in paths.items() if path != "/"]
        root = StaticFiles(directory=self._options.page or PAGE, html=True)
        return [*table, Route("/", self._knn, methods=["POST"]), Mount("/", root)]

    def _operator_routes(self) -> list[tuple[str, str, Handler]]:
        routes: list[tuple[str, str, Handler]] = []
        if self._options.trace is not None:
            routes.append(("GET", "/api/operator/trace/{id:int}", self._trace))
        if self._options.reports is not None:
            routes.append(("GET", "/api/operator/reports", self._reports))
            routes.append(("POST", "/api/operator/reports/{name}", self._decide))
        return routes

    def trouble(self) -> str | None:
        """Return why the server is not healthy, or None."""
        encoder = self._service.sources.encoder
        return "the model's process does not run" if encoder is not None and not encoder.is_up else None

    def _posted(self, answer: Callable[[Mapping[str, Any]], Awaitable[bytes]]) -> Handler:
        async def handler(request: Request) -> Response:
            return _ready(await answer(await self._bodies.object(request)))

        return handler

    async def _knn(self, request: Request) -> Response:
        given = await self._bodies.object(request)
        self._log(given, "knn-service")
        return _ready(await self._clip.knn(given))

    async def _search(self, request: Request) -> Response:
        given = await self._bodies.object(request)
        self._log(given, "search")
        return _ready(await self._api.search(given))

    def _log(self, given: Mapping[str, Any], route: str) -> None:
        """Log a query, if the operator asked for it; pictures and vectors are left out."""
        if self._options.log_queries:
            log.info("search.query route=%s query=%s", route, strict_json.dumps(_shortened(given)))

    async def _indexes(self, _: Request) -> Response:
        return _ready(self._api.indexes())

    async def _facets(self, request: Request) -> Response:
        return _ready(await self._api.facets(request.query_params.get("index")))

    async def _row(self, request: Request) -> Response:
        return _ready(await self._api.row(request.query_params.get("index"), request.path_params["id"]))

    async def _embedding(self, request: Request) -> Response:
        asked = request.query_params
        data = await self._api.embedding(asked.get("index"), request.path_params["id"], asked.get("modality", "image"))
        return Response(data, media_type="application/octet-stream")

    async def _export(self, request: Request) -> Response:
        fields = Fields(await self._bodies.object(request))
        question = parse_question(fields)
        most = fields.integer("limit", MOST_ROWS, low=1, high=MOST_ROWS)
        columns = fields.get("columns", list)
        kind = fields.get("format", str, ExportFormat.PARQUET)
        if kind not in set(ExportFormat):
            raise fields.wrong("format", f"must be one of {', '.join(ExportFormat)}")
        fields.finish()
        served = self._service.index(question.index)
        check_question(question, served.engine)
        where = served.engine.parse_filter(question.filters, safe=self._service.is_safe(question.safe))
        names = check_columns(served.engine.columns if columns is None else columns, served.engine)
        vector = await query_vector(question.terms, served.engine, self._service.sources, question.modality)
        job = self._exports.add(
            served, question, where=where, vector=vector, most=most, columns=names, format=ExportFormat(kind),
            address=_address(request.scope),
        )  # fmt: skip
        return Response(to_json(job.status()), 202, {"Location": f"/api/exports/{job.id}"}, "application/json")

    async def _export_status(self, request: Request) -> Response:
        return _ready(to_json(self._exports.get(request.path_params["name"]).status()))

    async def _export_cancel(self, request: Request) -> Response:
        return _ready(to_json(self._exports.cancel(request.path_params["name"]).status()))

    async def _export_file(self, request: Request) -> Response:
        job = self._exports.get(request.path_params["name"])
        if job.state is not ExportState.DONE:
            raise SearchError(409, f"The export is {job.state}: there is no file.")
        return FileResponse(job.path, filename=f"export.{job.format}", media_type=MEDIA_TYPES[job.format])

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

    async def _reports(self, request: Request) -> Response:
        self._require_operator(request)
        assert self._options.reports is not None
        return _ready(to_json({"reports": await asyncio.to_thread(self._options.reports.pending)}))

    async def _decide(self, request: Request) -> Response:
        self._require_operator(request)
        fields = Fields(await self._bodies.object(request))
        accept, note = fields.get("accept", bool), fields.get("note", str, "")
        fields.finish()
        if accept is None:
            raise SearchError(400, "accept is missing.", field="accept")
        assert self._options.reports is not None
        decide = partial(self._options.reports.decide, accept=accept, note=note)
        decided = await asyncio.to_thread(decide, request.path_params["name"])
        await self._service.refresh()
        return _ready(to_json(decided))

    async def _trace(self, request: Request) -> Response:
        self._require_operator(request)
        assert self._options.trace is not None
        name = self._service.index(request.query_params.get("index")).engine.name
        return _ready(to_json(await asyncio.to_thread(self._options.trace, name, request.path_params["id"])))

    def _require_operator(self, request: Request) -> None:
        """Raise SearchError (401) unless the request has the operator's token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        token = self._options.operator_token or ""
        if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode("utf-8")):
            raise SearchError(401, "This needs the operator's token.", headers={"WWW-Authenticate": "Bearer"})

    async def _openapi(self, _: Request) -> Response:
        return _ready(to_json(description(operator=self._options.operator_token is not None,
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
        return _ready(self._clip.indices())

    async def _config(self, request: Request) -> Response:
        config = {"defaultBackend": str(request.base_url), "defaultIndex": "", "urlColumn": "url"}
        return Response(strict_json.dumps(config), media_type="text/html")


def _by_method(handlers: Mapping[str, Handler]) -> type:
    """Return an endpoint that answers each method with its handler, and others with 405."""
    from starlette.endpoints import HTTPEndpoint

    def method(handler: Handler) -> Callable[[Any, Request], Awaitable[Response]]:
        async def call(_: Any, request: Request) -> Response:
            return await handler(request)

        return call

    return type("Endpoint", (HTTPEndpoint,), {name.lower(): method(handler) for name, handler in handlers.items()})


class _Guard:
    """Quota, paths with doubled slashes, security headers, and counts, around the whole application."""

    def __init__(self, app: ASGIApp, service: Service, quota: Quota, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._service = service
        self._quota = quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = "/" + scope["path"].lstrip("/")  # clip-front asks for //knn-service
        scope = {**scope, "path": path, "raw_path": path.encode("utf-8", "replace")}

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                more = [one for one in self._headers if one[0] not in known]
                message = {**message, "headers": [*message["headers"], *more]}
                self._service.metrics.requests.labels(_route(path), str(message["status"])).inc()
            await send(message)

        wait = 0.0 if path in UNMETERED else self._quota.take(_address(scope))
        if wait:
            self._service.metrics.refused.labels("quota").inc()
            headers = {"Retry-After": str(max(1, round(wait + 0.5))), "Connection": "close"}
            refusal = JSONResponse({"message": "Too many requests from your address: try again later."}, 429, headers)
            await refusal(scope, receive, send_noted)
            return
        await self._app(scope, receive, send_noted)


def _route(path: str) -> str:
    """Return a path's label in metrics: few values, whatever clients ask for."""
    parts = path.split("/")
    return path if path in _LABELS else f"/api/{parts[2]}" if parts[1] == "api" and parts[2] in _API else "other"


_API = frozenset({"indexes", "search", "count", "embed", "facets", "rows", "exports", "reports", "operator"})
_LABELS = frozenset({"/", "/knn-service", "/metadata", "/indices-list", "/metrics-summary", "/metrics", "/healthz"})


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def _ready(data: bytes) -> Response:
    return Response(data, media_type="application/json")


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


async def _refused(_: Request, error: SearchError) -> Response:
    return JSONResponse({"message": error.message, **error.facts}, error.status, error.headers)


async def _http_error(_: Request, error: HTTPException) -> Response:
    said = {404: "There is nothing at this path.", 405: "This path does not know the method."}
    return JSONResponse({"message": said.get(error.status_code, error.detail)}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("search.failed path=%s error=%r", request.url.path, error)
    message = str(error) if isinstance(error, DatasetError) else "The server failed: tell its operator."
    return JSONResponse({"message": message}, 500)


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address; port 0 picks a free one.

    Raises: DatasetError when it is taken or not this machine's.
    """
    # with its protocol, for without it asyncio does not set TCP_NODELAY, and every answer takes 40 ms
    listening = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        reason = error.strerror or error
        raise DatasetError(f"Cannot listen on {host}:{port} ({reason}): give another --port or --host.") from error
    return listening


def http_server(app: ASGIApp, proxies: Sequence[str] = ()) -> uvicorn.Server:
    """Return a server for the application; X-Forwarded-For is believed only from `proxies`."""
    protocol = type("Protocol", (SearchProtocol,), {"proxies": frozenset(proxies)})
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=protocol,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=[*proxies],
            limit_concurrency=MOST_CONNECTIONS,
            backlog=512,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
    )


async def run_server(
    server: uvicorn.Server, listening: socket.socket, refresh: Callable[[], Awaitable[None]], seconds: float
) -> None:
    """Serve until a signal, and call `refresh` now and then; what it raises is logged."""

    async def keep_fresh() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await refresh()
            except DatasetError as error:
                log.warning("search.refresh error=%r", str(error))

    refreshing = asyncio.create_task(keep_fresh())
    started = perf_counter()
    try:
        await server.serve(sockets=[listening])
    finally:
        refreshing.cancel()
        log.info("search.ended seconds=%.0f", perf_counter() - started)
