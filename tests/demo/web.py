"""The web of the mini crawl: one process that listens on many loopback addresses and misbehaves as planted.

It uses raw asyncio streams, because no HTTP server would send most of the planted responses. `routes.json`, in the
folder of the files, has the response of each link, keyed by 'host/path?query'; the host is the address that was
connected to, whatever the Host header says. Each host address is bound by itself, never 0.0.0.0, so nothing outside
this machine can reach it. Every endless answer is bounded, so a client that does not defend itself fails its test and
not the machine.

    python -m tests.demo.web FOLDER --port P [--by-name]

With `--by-name`, for a network of containers, it binds all addresses, and the host is the one that the request names.
It prints one line when it listens and ends on SIGTERM, on SIGINT, and when its standard input closes: so it cannot
outlive the process that started it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import assert_never

ROUTES = "routes.json"
CHUNK_BYTES = 65_536
ENDLESS_BYTES = 256 * 1024 * 1024  # what a client without a cap reads before the web gives up on it
INFLATED_BYTES = 4 * 1024**3  # the same for gzip; about 4 MB on the wire, under every cap on received bytes
MISBEHAVING_SECONDS = 120.0  # longer than any client's patience
DRIP_SECONDS = 0.25
JPEG_START = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"  # or a client would give up at once, and for another reason
REASONS: Mapping[int, str] = {200: "OK", 302: "Found", 404: "Not Found", 410: "Gone", 500: "Internal Server Error"}


class Behaviour(StrEnum):
    """How a route answers."""

    FILE = "file"
    SILENT = "silent"  # reads the request, never answers
    SLOW = "slow"  # drips the file
    ENDLESS = "endless"  # the file, then zeros without Content-Length
    SHORT = "short"  # promises twice what it sends
    INFLATING = "inflating"  # gzip that inflates without end


@dataclass(frozen=True, slots=True)
class Route:
    """One answer. `file` is relative to the web's folder; None is an empty body."""

    behaviour: Behaviour = Behaviour.FILE
    file: str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What the web cares about in a request."""

    target: str
    host: str
    keep_alive: bool
    head_only: bool


class BadRequestError(Exception):
    """The client sent something that is no HTTP request."""


def save_routes(folder: Path, hosts: Sequence[str], routes: Mapping[str, Route]) -> None:
    """Write the routes of `hosts` beside the files that they serve."""
    written = {"hosts": list(hosts), "routes": {key: asdict(route) for key, route in routes.items()}}
    (folder / ROUTES).write_text(json.dumps(written, indent=1), encoding="utf-8")


def load_routes(folder: Path) -> tuple[list[str], dict[str, Route]]:
    """Read what `save_routes` wrote: the host addresses and the routes by 'host/path'."""
    read = json.loads((folder / ROUTES).read_text(encoding="utf-8"))
    routes = {
        key: Route(**{**route, "behaviour": Behaviour(route["behaviour"])}) for key, route in read["routes"].items()
    }
    return read["hosts"], routes


class Web:
    """The files and routes of one folder, answered to one connection after another."""

    def __init__(self, folder: Path, *, by_name: bool = False) -> None:
        self.folder = folder
        self.by_name = by_name
        self.hosts, self.routes = load_routes(folder)
        self.connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        """Listen on every host address at `port`; leaving ends the connections too."""
        hosts = "0.0.0.0" if self.by_name else self.hosts
        server = await asyncio.start_server(self.accept, host=hosts, port=port, backlog=256)
        try:
            yield
        finally:
            server.close()
            for task in self.connections:
                task.cancel()
            await asyncio.gather(*self.connections, return_exceptions=True)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Start a task for a connection, kept in a set because asyncio keeps only weak references."""
        task = asyncio.create_task(self.converse(reader, writer))
        self.connections.add(task)
        task.add_done_callback(self.connections.discard)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until either side closes."""
        host = writer.get_extra_info("sockname")[0]
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, BadRequestError
        ):
            while True:
                request = await read_request(reader)
                if not await self.answer(request.host if self.by_name else host, request, writer):
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def answer(self, host: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request as its route says; True if the connection may carry another."""
        route = self.routes.get(host + request.target, Route(status=404))
        body = (self.folder / route.file).read_bytes() if route.file else b""
        headers = {"Server": "mini-crawl", **route.headers}
        match route.behaviour:
            case Behaviour.FILE:
                keep = request.keep_alive
                headers |= {"Content-Length": str(len(body)), "Connection": "keep-alive" if keep else "close"}
                writer.write(response_head(route.status, headers) + (b"" if request.head_only else body))
                await writer.drain()
                return keep
            case Behaviour.SILENT:
                await asyncio.sleep(MISBEHAVING_SECONDS)
            case Behaviour.SLOW:
                writer.write(response_head(route.status, headers | {"Content-Length": str(len(body))}))
                await drip(body, writer)
            case Behaviour.ENDLESS:
                writer.write(response_head(route.status, headers | {"Connection": "close"}) + body)
                await pour(bytes(CHUNK_BYTES), ENDLESS_BYTES // CHUNK_BYTES, writer)
            case Behaviour.SHORT:
                writer.write(response_head(route.status, headers | {"Content-Length": str(2 * len(body))}) + body)
                await writer.drain()
            case Behaviour.INFLATING:
                headers |= {"Content-Encoding": "gzip", "Connection": "close"}
                start, again = inflating_gzip()
                writer.write(response_head(route.status, headers) + start)
                await pour(again, INFLATED_BYTES // 2**20, writer)
            case _:
                assert_never(route.behaviour)
        return False


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request's head; bodies are not for this web.

    Raises:
        BadRequestError: the first line is not 'METHOD target HTTP/x'.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/"):
        raise BadRequestError(line)
    closing = any(field.lower().replace(" ", "") == "connection:close" for field in fields)
    named = next((field.partition(":")[2].strip() for field in fields if field.lower().startswith("host:")), "")
    return Request(
        parts[1],
        named.partition(":")[0].lower(),
        keep_alive=parts[2] == "HTTP/1.1" and not closing,
        head_only=parts[0] == "HEAD",
    )


def response_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Write a status line and headers."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, '')}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def drip(body: bytes, writer: asyncio.StreamWriter) -> None:
    """Send a body so slowly that nobody waits for its end."""
    for start in range(round(MISBEHAVING_SECONDS / DRIP_SECONDS)):
        writer.write(body[start : start + 1])
        await writer.drain()
        await asyncio.sleep(DRIP_SECONDS)


async def pour(chunk: bytes, times: int, writer: asyncio.StreamWriter) -> None:
    """Send a chunk again and again, as fast as it is taken."""
    for _ in range(times):
        writer.write(chunk)
        await writer.drain()


def inflating_gzip() -> tuple[bytes, bytes]:
    """Return the start of a JPEG in gzip, and a repeatable block that inflates to 1 MiB of zeros each time.

    A full flush forgets what came before, so the block repeats without an end, CRC or length ever being due.
    """
    deflate = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    start = deflate.compress(JPEG_START + bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    again = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return start, again


def stop_when_stdin_closes(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` once standard input ends, which happens when the parent dies."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(sys.stdin.fileno(), 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch, daemon=True).start()


async def serve(folder: Path, port: int, *, by_name: bool = False) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    web = Web(folder, by_name=by_name)
    async with web.listening(port):
        print(f"ready hosts={len(web.hosts)} routes={len(web.routes)} port={port}", flush=True)
        stop_when_stdin_closes(loop, stop)
        await stop.wait()


def main() -> None:
    """Run the web from the command line."""
    parser = argparse.ArgumentParser(prog="tests.demo.web", description="Serve a mini crawl's web.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--by-name", action="store_true", help="for a network of containers: bind all addresses")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.folder, arguments.port, by_name=arguments.by_name))
    except OSError as error:
        sys.exit(f"the web cannot listen on port {arguments.port} ({error.strerror}): choose another with --port")


if __name__ == "__main__":
    main()
