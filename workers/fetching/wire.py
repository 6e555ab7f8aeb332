"""Connections: a trio stream in the shape in which asks wants a socket, and the ones that idle for the next request.

Invariant: a wire is in use by one request, idle, or closed; idle ones are bounded in number and age. One that has
something to say while it idles (an end, bytes beyond the length that was announced) is never used again.
"""

import select
from collections import OrderedDict

import trio

IDLE_SECONDS = 5.0
"""Apache closes after 5 seconds by default; a connection kept longer is mostly a dead one."""

RECEIVE_BYTES = 64 << 10
"""One receive a picture, mostly: their mean is 55 KB."""


class Wire:
    """One connection to one origin. The names that asks uses are `receive`, `send`, `aclose`, `host`, `port`."""

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self._stream = stream
        self._socket = socket
        self._active = True  # read by asks, which is never to close or keep a wire itself
        self.host = ""  # the origin, set by asks
        self.port = ""
        self.requests = 0
        self.is_clean = False
        """The last exchange ended well, so that another may follow."""
        self.idle_since = 0.0

    def begin(self) -> None:
        """Count a request; until its response has ended well the wire is not clean."""
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
        self._socket.close()

    def is_quiet(self) -> bool:
        """Say whether nothing has arrived, not even an end."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not poll.poll(0)


class IdleWires:
    """The connections that wait for another request, by origin."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._wires: OrderedDict[Wire, None] = OrderedDict()  # the one that idles longest first
        self._by_origin: dict[str, list[Wire]] = {}

    def put(self, wire: Wire) -> None:
        """Keep a wire, and close those that have idled too long or are too many."""
        wire.idle_since = trio.current_time()
        self._wires[wire] = None
        self._by_origin.setdefault(wire.host, []).append(wire)
        while self._wires:
            oldest = next(iter(self._wires))
            if len(self._wires) <= self._limit and wire.idle_since - oldest.idle_since < IDLE_SECONDS:
                break
            self._forget(oldest)
            oldest.close()

    def take(self, origin: str) -> Wire | None:
        """Return a wire to the origin that can be asked, the last used first, or None."""
        while wires := self._by_origin.get(origin):
            wire = wires[-1]
            self._forget(wire)
            if trio.current_time() - wire.idle_since < IDLE_SECONDS and wire.is_quiet():
                return wire
            wire.close()
        return None

    def close(self) -> None:
        """Close all."""
        for wire in self._wires:
            wire.close()
        self._wires.clear()
        self._by_origin.clear()

    def _forget(self, wire: Wire) -> None:
        del self._wires[wire]
        wires = self._by_origin[wire.host]
        wires.remove(wire)
        if not wires:
            del self._by_origin[wire.host]
