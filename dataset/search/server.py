"""The HTTP server: its socket, uvicorn's settings, and what runs beside it."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

import uvicorn
from starlette.types import ASGIApp

from dataset.errors import DatasetError
from dataset.search.connections import SearchProtocol

log = logging.getLogger("shoal.search")

MOST_CONNECTIONS = 1_000
CLOSING_SECONDS = 5


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
