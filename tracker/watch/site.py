"""`tracker serve` over HTTP: /metrics for Prometheus, /healthz, /status.json, and the status page at /.

Every answer is bytes that lie ready (see watcher.py), and uvicorn runs on a thread and loop of its own: a client that
is slow, or a thousand of them, costs the tracker's duties nothing. There is nothing to change here and no secret to
read, but hosts and errors are shown: it listens on loopback unless told otherwise.
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
REQUEST_SECONDS = 10.0  # for the head of a connection's first request; the keep-alive limit is for what follows
CLOSING_SECONDS = 2  # for answers under way, at the end
SECURITY = {
    # The page's script and style are its own, and it talks to nobody but this tracker.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class PromptProtocol(H11Protocol):
    """HTTP/1.1 whose clients have REQUEST_SECONDS for their request.

    uvicorn waits for a first request for ever, and counts who has not made one against `limit_concurrency`: so many
    silent connections, of port scanners or of proxies that died, shut all others out, the health check among them.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(REQUEST_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None:  # the first request's head is whole
            self._waiting.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.cancel()
        super().connection_lost(exc)


def site(watcher: Watcher) -> Starlette:
    """The application; every route only reads what the watcher holds ready."""

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
    """Listen at HOST:PORT, [IPv6]:PORT or PORT (then on loopback); port 0 is any that is free.

    Raises:
        TrackerError: it is no such place, or another process listens there.
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
    """Host and port of HOST:PORT; Raises TrackerError when it is none."""
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise TrackerError(f"{place!r} is no place to listen: give --http HOST:PORT, as 127.0.0.1:9464, or off")
    return host, int(port)


def url_of(listening: socket.socket) -> str:
    """Return the URL of a socket that listens; an IPv6 address stands in brackets (RFC 3986, 3.2.2)."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


@contextmanager
def shown(url: str, duties: Duties, place: str | None) -> Iterator[None]:
    """Show the swarm over HTTP while the block runs; at HTTP_PLACE, if nobody else does, where no place is named.

    Raises:
        TrackerError: the place that is named is none, or taken.
    """
    if place == OFF:
        yield
        return
    try:
        listening = listen(place or HTTP_PLACE)
    except TrackerError as error:
        if place is not None:
            raise
        log.warning("http.off error=%r", str(error))  # a second tracker on this machine: its duties are what counts
        yield
        return
    log.info("http.listening url=%s", url_of(listening))
    with answering(Watcher(url, duties, every_seconds=min(EVERY_SECONDS, duties.every_seconds)), listening):
        yield


@contextmanager
def answering(watcher: Watcher, listening: socket.socket) -> Iterator[None]:
    """Answer on a socket that listens, in a thread, until the block ends."""
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
