"""Connections: a trio stream in the shape in which asks wants a socket, and the ones that idle for the next request.

Invariant: a connection is in use by one request, idle, or closed; idle ones are bounded in number and age. One that has
something to say while it idles (an end, bytes beyond the length that was announced) is never used again.
"""

import select
import socket
from collections import OrderedDict
from contextlib import suppress
from typing import Protocol

import trio

from workers.runtime import metrics

IDLE_SECONDS = 5.0
"""Apache closes after 5 seconds by default; a connection kept longer is mostly a dead one."""

RECEIVE_BYTES = 64 << 10
"""One receive a picture, mostly: their mean is 55 KB."""


class ByteStream(Protocol):
    """Bytes in both directions, as trio's streams have them.

    Raises: trio.BrokenResourceError, trio.ClosedResourceError.
    """

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, max_bytes: int) -> bytes | bytearray: ...


class PlainByteStream:
    """A connected, non-blocking socket without TLS; trio is asked only when there is something to wait for.

    A SocketStream goes through trio's scheduler with every call, also where nothing was waited for. What arrives
    without a wait is bounded by the limits on heads and bodies.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._is_asking = False

    async def send_all(self, data: bytes) -> None:
        """Send all of it."""
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
        """Return what has arrived, or wait for it; nothing at the end."""
        try:
            if self._is_asking:  # the answer cannot be there yet
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
    """One connection to one origin. The names that asks uses are `receive`, `send`, `aclose`, `host`, `port`."""

    def __init__(self, stream: ByteStream, socket: socket.socket) -> None:
        self._stream = stream
        self._socket = socket
        self._active = True  # read by asks, which is never to close or keep a connection itself
        self.host = ""  # the origin, set by asks
        self.port = ""
        self.requests = 0
        self.is_clean = False
        """The last exchange ended well, so that another may follow."""
        self.idle_since = 0.0
        self._is_counted = True
        metrics.CONNECTIONS.inc()

    def begin(self) -> None:
        """Count a request; until its response has ended well the connection is not clean."""
        self.requests += 1
        self.is_clean = False

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return what has arrived; nothing at the end."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        await self._stream.send_all(data)

    async def aclose(self) -> None:
        """Close, in asks' spelling."""
        self.close()

    def close(self) -> None:
        """Close at once, without TLS's farewell, which nobody waits for."""
        self.is_clean = False
        close_socket(self._socket)
        if self._is_counted:  # a second close closes nothing
            self._is_counted = False
            metrics.CONNECTIONS.dec()

    def is_quiet(self) -> bool:
        """Say whether nothing has arrived, not even an end."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not poll.poll(0)


def close_socket(connected: socket.socket) -> None:
    """Close a socket of which trio may know."""
    if connected.fileno() >= 0:
        trio.lowlevel.notify_closing(connected)
        connected.close()


class IdleConnections:
    """The connections that wait for another request, by origin."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: OrderedDict[Connection, None] = OrderedDict()  # the one that idles longest first
        self._by_origin: dict[str, list[Connection]] = {}

    def put(self, connection: Connection) -> None:
        """Keep a connection, and close those that have idled too long or are too many."""
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
        """Return a connection to the origin that can be asked, the last used first, or None."""
        while connections := self._by_origin.get(origin):
            connection = connections[-1]
            self._forget(connection)
            if trio.current_time() - connection.idle_since < IDLE_SECONDS and connection.is_quiet():
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Close all."""
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
