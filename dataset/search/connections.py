"""HTTP connections that nobody can hold for ever."""

import asyncio
import socket
import struct
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_OF_ADDRESS = 256
"""Connections; so one address cannot take all."""
REQUEST_SECONDS = 10.0
"""For the head of a request from its first byte, or from the start of a connection; uvicorn would wait for ever."""
WRITE_SECONDS = 30.0
"""A client that reads nothing for this long is disconnected."""


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
