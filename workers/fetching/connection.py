"""Connections to web servers, with the interface that asks expects of a socket, and the pool of idle ones.

Invariant: a connection is in use by one request, idle, or closed. Idle connections are bounded in number and age. An
idle connection that becomes readable (EOF or surplus bytes) is closed, not reused.
"""

import select
import socket
from collections import OrderedDict
from contextlib import suppress
from typing import Protocol

import trio

from workers.runtime import metrics

IDLE_SECONDS = 5.0
"""Apache closes idle connections after 5 seconds by default, so older ones are mostly dead."""

RECEIVE_BYTES = 64 << 10
"""Enough for most pictures in one call; their mean is 55 KB."""


class ByteStream(Protocol):
    """The part of trio's streams that a connection needs.

    Raises: trio.BrokenResourceError, trio.ClosedResourceError.
    """

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes | bytearray: ...


class PlainByteStream:
    """A connected, non-blocking socket without TLS that calls trio only when it must wait.

    trio's SocketStream enters the scheduler with every call. The limits on heads and bodies bound how much is read
    without a wait.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._is_asking = False

    async def send_all(self, data: bytes) -> None:
        """Send all bytes."""
        self._is_asking = True
        sent = 0
        try:
            while True:
                with suppress(BlockingIOError):
                    sent += self._socket.send(memoryview(data)[sent:] if sent else data)
                if sent == len(data):
                    return
                await trio.lowlevel.wait_writable(self._socket)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has arrived, waiting if necessary; b"" at EOF."""
        try:
            if self._is_asking:  # the response cannot have arrived yet
                self._is_asking = False
                await trio.lowlevel.wait_readable(self._socket)
            while True:
                try:
                    return self._socket.recv(max_bytes)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket)
        except OSError as error:
            raise trio.BrokenResourceError from error


class Connection:
    """A connection to one origin. asks uses `receive`, `send`, `aclose`, `host` and `port`."""

    def __init__(self, stream: ByteStream, socket: socket.socket) -> None:
        self._stream = stream
        self._socket = socket
        self._active = True  # read by asks; True keeps it from closing or pooling the connection itself
        self.host = ""  # the origin, set by asks
        self.port = ""
        self.requests = 0
        self.is_clean = False
        """Whether the last exchange ended properly, so that another may follow."""
        self.idle_since = 0.0
        self._is_counted = True
        metrics.CONNECTIONS.inc()

    def begin(self) -> None:
        """Begin a request; the connection is not clean until the response has ended properly."""
        self.requests += 1
        self.is_clean = False

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return what has arrived, waiting if necessary; b"" at EOF."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send(self, data: bytes) -> None:
        """Send all bytes."""
        await self._stream.send_all(data)

    async def aclose(self) -> None:
        """Close; asks calls it by this name."""
        self.close()

    def close(self) -> None:
        """Close at once, without the TLS closing handshake."""
        self.is_clean = False
        close_socket(self._socket)
        if self._is_counted:  # count only the first close
            self._is_counted = False
            metrics.CONNECTIONS.dec()

    def is_quiet(self) -> bool:
        """Return whether nothing has arrived, not even EOF."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not poll.poll(0)


def close_socket(connected: socket.socket) -> None:
    """Close a socket that trio may be waiting for."""
    if connected.fileno() >= 0:
        trio.lowlevel.notify_closing(connected)
        connected.close()


class IdleConnections:
    """The idle connections, by origin."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: OrderedDict[Connection, None] = OrderedDict()  # longest idle first
        self._by_origin: dict[str, list[Connection]] = {}

    def put(self, connection: Connection) -> None:
        """Keep a connection; close those beyond the age or the number allowed."""
        connection.idle_since = trio.current_time()
        self._connections[connection] = None
        self._by_origin.setdefault(connection.host, []).append(connection)
        while self._connections:
            oldest = next(iter(self._connections))
            if len(self._connections) <= self._limit and connection.idle_since - oldest.idle_since < IDLE_SECONDS:
                break
            self._forget(oldest)
            oldest.close()

    def take(self, origin: str) -> Connection | None:
        """Return a usable connection to the origin, the last used first, or None."""
        while connections := self._by_origin.get(origin):
            connection = connections[-1]
            self._forget(connection)
            if trio.current_time() - connection.idle_since < IDLE_SECONDS and connection.is_quiet():
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._by_origin.clear()

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection]
        connections = self._by_origin[connection.host]
        connections.remove(connection)
        if not connections:
            del self._by_origin[connection.host]
