"""A misbehaving web server on loopback: raw trio sockets, one handler per path, arbitrary bytes.

A handler gets the stream and the request's head, which is already read. The connection stays open for another request
unless the handler closes it.
"""

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import trio
from PIL import Image

Handler = Callable[[trio.abc.Stream, bytes], Awaitable[None]]
T = TypeVar("T")

TEST_SECONDS = 30.0
"""No test takes more than a few; this one only turns a hang into a failure."""


@dataclass(slots=True)
class OddWeb:
    """A running server and the requests that it got."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def odd_web(handlers: Mapping[str, Handler], *, host: str = "127.0.0.1") -> AsyncIterator[OddWeb]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        web = OddWeb(listeners[0].socket.getsockname()[1])

        async def serve(stream: trio.SocketStream) -> None:
            web.connections += 1
            await serve_requests(stream, handlers, web)

        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield web
        nursery.cancel_scope.cancel()


async def serve_requests(stream: trio.abc.Stream, handlers: Mapping[str, Handler], web: OddWeb) -> None:
    try:
        async with stream:
            while (head := await _head(stream)) is not None:
                web.requests.append(head)
                path = head.split(b" ")[1].decode()
                await handlers[path if path in handlers else "*"](stream, head)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the worker hung up, as it should on most of these


async def _head(stream: trio.abc.Stream) -> bytes | None:
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some()
        if not data:
            return None
        head += data
    return head


def answer(raw: bytes, *, close: bool = False) -> Handler:
    """Return a handler that sends these bytes."""

    async def handler(stream: trio.abc.Stream, head: bytes) -> None:
        await stream.send_all(raw)
        if close:
            await stream.aclose()

    return handler


def response(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Return a complete response, with the correct length unless overridden."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def picture(width: int = 320, height: int = 240, kind: str = "JPEG", seed: int = 0) -> bytes:
    """Return a textured picture of well over 5,000 bytes."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def run(test: Callable[[], Awaitable[T]]) -> T:
    """Run a test under trio; it fails after a time limit."""

    async def bounded() -> T:
        with trio.fail_after(TEST_SECONDS):
            return await test()

    return trio.run(bounded)
