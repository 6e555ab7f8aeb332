"""A trio backend for dnspython.

Source: dnspython's interface for asynchronous backends. Its own trio backend cannot be imported with Shoal's version of
trio: dnspython 2.9 requires trio 0.34 or later, and asks 3.0.0 does not work with 0.24 or later.

Rejected: an older dnspython, which lacks fixes, and overriding its version check, which is private.
"""

import socket
from collections.abc import Awaitable
from typing import Any

import dns.asyncbackend
import dns.exception
import trio


def _within(seconds: float | None) -> trio.CancelScope:
    return trio.CancelScope() if seconds is None else trio.move_on_after(max(0.0, seconds))


def _too_late(seconds: float | None) -> dns.exception.Timeout:
    return dns.exception.Timeout(timeout=seconds)  # type: ignore[no-untyped-call]


class _Datagrams(dns.asyncbackend.DatagramSocket):  # type: ignore[misc, name-defined]  # exported at run time
    def __init__(self, udp: trio.socket.SocketType) -> None:
        super().__init__(udp.family, socket.SOCK_DGRAM)
        self._udp = udp

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:  # noqa: ASYNC109
        with _within(timeout):
            if destination is None:
                return await self._udp.send(what)
            return int(await self._udp.sendto(what, destination))
        raise _too_late(timeout)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:  # noqa: ASYNC109
        with _within(timeout):
            return await self._udp.recvfrom(size)
        raise _too_late(timeout)

    async def close(self) -> None:
        self._udp.close()

    async def getpeername(self) -> Any:
        return self._udp.getpeername()

    async def getsockname(self) -> Any:
        return self._udp.getsockname()


class _Stream(dns.asyncbackend.StreamSocket):  # type: ignore[misc, name-defined]  # exported at run time
    def __init__(self, tcp: trio.SocketStream) -> None:
        super().__init__(tcp.socket.family, socket.SOCK_STREAM)
        self._tcp = tcp

    async def sendall(self, what: bytes, timeout: float | None) -> None:  # noqa: ASYNC109
        with _within(timeout):
            await self._translated(self._tcp.send_all(what))
            return
        raise _too_late(timeout)

    async def recv(self, size: int, timeout: float | None) -> bytes:  # noqa: ASYNC109
        with _within(timeout):
            return bytes(await self._translated(self._tcp.receive_some(size)))
        raise _too_late(timeout)

    async def close(self) -> None:
        self._tcp.socket.close()

    async def getpeername(self) -> Any:
        return self._tcp.socket.getpeername()

    async def getsockname(self) -> Any:
        return self._tcp.socket.getsockname()

    async def _translated(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except trio.BrokenResourceError as error:
            raise ConnectionResetError from error


class TrioBackend(dns.asyncbackend.Backend):  # type: ignore[misc, name-defined]  # exported at run time
    """Opens UDP and TCP sockets; TLS and DNS over HTTPS are not supported."""

    def name(self) -> str:
        """Return the library's name."""
        return "trio"

    async def make_socket(  # dnspython's signature
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109
        ssl_context: Any = None,  # noqa: ARG002
        server_hostname: Any = None,  # noqa: ARG002
    ) -> Any:
        """Open a socket; connect it if a destination is given.

        Raises: dns.exception.Timeout, OSError.
        """
        made = trio.socket.socket(af, socktype, proto)
        is_ready = False
        try:
            with _within(timeout):
                if source is not None:
                    await made.bind(source)
                if destination is not None:
                    await made.connect(destination)
                is_ready = True
        finally:
            if not is_ready:
                made.close()
        if not is_ready:
            raise _too_late(timeout)
        return _Stream(trio.SocketStream(made)) if socktype == socket.SOCK_STREAM else _Datagrams(made)

    async def sleep(self, interval: float) -> None:
        """Wait before the next attempt."""
        await trio.sleep(interval)

    async def wait_for(self, awaitable: Awaitable[Any], timeout: float | None) -> Any:  # noqa: ASYNC109
        """Await something for at most `timeout` seconds."""
        with _within(timeout):
            return await awaitable
        raise _too_late(timeout)
