"""`tracker serve` over HTTP: /metrics for Prometheus, /healthz, /status.json, and the status page at /.

Every response is prepared in advance (see watcher.py), and uvicorn runs on its own thread, so slow clients do not delay
the tracker's duties. Clients cannot change anything or read secrets. But hosts and errors are shown, so the default
address is on loopback.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from tracker.duties.serve import Duties
from tracker.errors import TrackerError
from tracker.settings import HTTP_PLACE
from tracker.watch.watcher import EVERY_SECONDS, Watcher

log = logging.getLogger("shoal.tracker")

OFF = "off"
MAX_CONNECTIONS = 200
REQUEST_SECONDS = 10.0  # limit for the head of the first request; later requests have the keep-alive limit
CLOSING_SECONDS = 2  # limit for open responses at shutdown
SECURITY = {
    # Script and style are inline, and the page connects only to this tracker.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that closes connections without a request after REQUEST_SECONDS.

    uvicorn waits for a first request for ever, and counts silent connections towards `limit_concurrency`. So port
    scanners and dead proxies could lock out all clients, including the health check.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(REQUEST_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None:  # the head of the first request is complete
            self._waiting.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.cancel()
        super().connection_lost(exc)


def site(watcher: Watcher) -> Starlette:
    """Return the application; its routes only return what the watcher has prepared."""

    async def page(_: Request) -> Response:
        return Response(page_bytes(), media_type="text/html", headers=SECURITY)

    async def status(_: Request) -> Response:
        return Response(watcher.answers.status, media_type="application/json", headers=SECURITY)

    async def metrics(_: Request) -> Response:
        return Response(watcher.answers.metrics, headers=SECURITY | {"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_: Request) -> Response:
        trouble = watcher.trouble()
        return JSONResponse({"healthy": trouble is None, "reason": trouble}, 503 if trouble else 200, SECURITY)

    routes = {"/": page, "/status.json": status, "/metrics": metrics, "/healthz": health}
    return Starlette(routes=[Route(path, answer, methods=["GET"]) for path, answer in routes.items()])


@cache
def page_bytes() -> bytes:
    return files("tracker.watch").joinpath("page.html").read_bytes()


def listen(place: str) -> socket.socket:
    """Listen at HOST:PORT, [IPv6]:PORT or PORT (on loopback); port 0 picks a free one.

    Raises:
        TrackerError: the address is invalid, or another process listens there.
    """
    host, port = parse_place(place)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise TrackerError(f"cannot listen on {place} ({error.strerror or error}): give another --http") from error
    return listening


def parse_place(place: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT.

    Raises:
        TrackerError: it is invalid.
    """
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise TrackerError(f"{place!r} is not an address: give --http HOST:PORT, for example 127.0.0.1:9464, or off")
    return host, int(port)


def url_of(listening: socket.socket) -> str:
    """Return the URL of a socket that listens; an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def shown(url: str, duties: Duties, place: str | None) -> Iterator[None]:
    """Serve the status over HTTP while the block runs; without a place, use HTTP_PLACE if it is free.

    Raises:
        TrackerError: the given place is invalid or taken.
    """
    if place == OFF:
        yield
        return
    try:
        listening = listen(place or HTTP_PLACE)
    except TrackerError as error:
        if place is not None:
            raise
        # probably a second tracker on this machine, whose duties matter more than its page
        log.warning("http.off error=%r", str(error))
        yield
        return
    log.info("http.listening url=%s", url_of(listening))
    with answering(Watcher(url, duties, every_seconds=min(EVERY_SECONDS, duties.every_seconds)), listening):
        yield


@contextmanager
def answering(watcher: Watcher, listening: socket.socket) -> Iterator[None]:
    """Answer requests on a listening socket, in a thread, until the block ends."""
    config = uvicorn.Config(
        site(watcher),
        http=PromptProtocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http", daemon=True)
    watcher.start()
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        watcher.stop()
        listening.close()
