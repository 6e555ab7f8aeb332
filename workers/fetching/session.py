"""asks, mended at its seams: the only module that knows it.

Invariant: one call of `CheckedSession.ask` is one request and one response over a connection to an address that was
checked; no redirect is followed, no cookie kept, nothing read beyond the bounds. Whatever goes wrong is a `LinkFailed`.

asks builds the request (headers, quoting of the path) and drives h11; what it would do next is replaced, because of
what was read in asks 3.0.0 and tried:

- `Session._connect` resolves the name itself, and cuts IPv6 hosts at the colon → we connect to the checked address and
  give TLS the right name.
- its pool is searched linearly and never closes → `IdleWires`.
- `Session.request` asks again on the same dead socket after a bad response → once more on a fresh one, and only when
  a kept connection gave nothing at all.
- `_request_io` sends `Content-Length: 0` with a GET, follows redirects on a socket that it told to close, and parses
  cookies → one request, one response.
- `_send` writes the request and its empty end in two calls through h11's states (16 µs) → one write of the request that
  asks has built and h11 has checked; the states are kept only for a response that h11 frames.
- `_grab_connection` takes the URL apart and together again → the target's own origin.
- `_catch_response` decodes headers as strict UTF-8, takes a body without length for none, does not skip interim
  responses and has no limit → `ResponseReader`.
"""

import socket
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address

import h11
import trio
from asks.request_object import RequestProcessor
from asks.sessions import Session

from dataset.outcomes import Outcome
from workers.fetching.addresses import Address, AddressRule
from workers.fetching.failure import LinkFailed
from workers.fetching.gate import AddressGate
from workers.fetching.policy import FetchPolicy
from workers.fetching.resolve import Resolver
from workers.fetching.response import Errand, Reply, ResponseReader, StaleConnectionError
from workers.fetching.target import Target, parse_target
from workers.fetching.wire import IdleWires, PlainFlow, Wire, close_socket

MAX_ADDRESSES = 2
"""Tried of a name, in the resolver's order, each with its part of the time."""


class CheckedSession(Session):  # type: ignore[misc]  # asks is not annotated
    """A session that connects to checked addresses only, and keeps connections within bounds."""

    def __init__(self, policy: FetchPolicy, resolver: Resolver) -> None:
        super().__init__(connections=policy.concurrency)
        self.policy = policy
        self._resolver = resolver
        self._rule = AddressRule(policy.allow_networks, policy.allow_ports)
        self._gate = AddressGate(policy.per_address)
        self._idle = IdleWires(policy.concurrency)
        self._tls: ssl.SSLContext | None = None

    async def ask(self, target: Target, errand: Errand) -> Reply:
        """Send one GET and return its response.

        Raises: LinkFailed.
        """
        if not self.policy.per_address:
            return await self._ask(target, errand)
        with errand.paused():  # DNS has its own limit, and others' requests are not this link's fault
            addresses = await self._resolver.resolve(target.host)
            await self._gate.enter(addresses[0])
        try:
            return await self._ask(target, errand)
        finally:
            self._gate.leave(addresses[0])

    async def _ask(self, target: Target, errand: Errand) -> Reply:
        while True:
            wire = self._checkout_connection(target.origin)
            if wire is None:
                wire = await self._make_connection(target.origin)
            assert wire is not None
            try:
                request = _OneRequest(self, target, wire, errand)
                _, reply = await request.make_request()
            except StaleConnectionError:
                continue
            except h11.LocalProtocolError as error:
                raise LinkFailed(Outcome.BAD_URL, "no request can be made from it") from error
            finally:
                await self.return_to_pool(wire)
            assert isinstance(reply, Reply)
            return reply

    async def close(self) -> None:
        """Close the idle connections."""
        self._idle.close()

    def _checkout_connection(self, host_loc: str) -> Wire | None:
        return self._idle.take(host_loc)

    async def return_to_pool(self, sock: Wire) -> None:
        """Keep a connection whose last exchange ended well, close any other."""
        if sock.is_clean:
            self._idle.put(sock)
        else:
            sock.close()

    async def _connect(self, host_loc: str) -> tuple[Wire, str]:
        target = parse_target(host_loc)
        self._rule.check((), target.port)
        addresses = await self._resolver.resolve(target.host)
        self._rule.check(addresses, target.port)
        with trio.move_on_after(self.policy.connect_seconds):
            connected = await self._open(addresses[:MAX_ADDRESSES], target.port)
            if target.scheme == "http":
                return Wire(PlainFlow(connected), connected), str(target.port)
            return Wire(await self._secure(connected, target.host), connected), str(target.port)
        raise LinkFailed(Outcome.TIMEOUT, "no connection in time")

    async def _open(self, addresses: Sequence[Address], port: int) -> socket.socket:
        is_late = False
        for address in addresses:
            family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
            connecting = socket.socket(family, socket.SOCK_STREAM)
            is_open = False
            try:
                with trio.move_on_after(self.policy.connect_seconds / len(addresses)) as scope:
                    await trio.socket.from_stdlib_socket(connecting).connect((str(address), port))
                    is_open = True
                    return connecting
                is_late |= scope.cancelled_caught
            except OSError:
                continue
            finally:
                if not is_open:
                    close_socket(connecting)
        if is_late:
            raise LinkFailed(Outcome.TIMEOUT, "no connection in time")
        raise LinkFailed(Outcome.CONNECT_ERROR, "the connection was refused or is not possible")

    async def _secure(self, connected: socket.socket, host: str) -> trio.abc.Stream:
        is_secure = False
        try:
            self._tls = self._tls or _tls_context(self.policy)  # 30 ms: only where it is needed
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(connected))
            secured = trio.SSLStream(stream, self._tls, server_hostname=host, https_compatible=True)
            await secured.do_handshake()
            is_secure = True
        except (trio.BrokenResourceError, ssl.SSLError, ValueError) as error:
            cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
            unknown = isinstance(cause, ssl.SSLCertVerificationError)
            reason = "the certificate does not vouch for the host" if unknown else "the handshake failed"
            raise LinkFailed(Outcome.TLS_ERROR, reason) from error
        finally:
            if not is_secure:
                close_socket(connected)
        return secured


class _OneRequest(RequestProcessor):  # type: ignore[misc]  # asks is not annotated
    """One request, one response: no redirect, no cookie, no second try."""

    def __init__(self, session: CheckedSession, target: Target, wire: Wire, errand: Errand) -> None:
        headers = {
            "Host": target.authority,
            "User-Agent": session.policy.user_agent,
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",  # pictures are compressed already
            "Connection": "keep-alive",
        }
        super().__init__(session, "GET", target.url, str(target.port), headers=headers, sock=wire, encoding="utf-8")
        self._reader = ResponseReader(wire, session.policy, errand)
        wire.begin()

    async def _request_io(self, h11_request: h11.Request, h11_body: object, h11_connection: h11.Connection) -> Reply:  # noqa: ARG002  # asks' signature
        lines = [b"%b %b HTTP/1.1" % (h11_request.method, h11_request.target)]
        fields = h11_request.headers.raw_items()
        lines += [b"%b: %b" % field for field in fields if field[0] != b"Content-Length"]
        try:
            await self.sock.send(b"\r\n".join((*lines, b"", b"")))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._reader.broken("the connection broke before a response") from error
        return await self._reader.read(h11_connection, h11_request)


def _tls_context(policy: FetchPolicy) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not policy.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
