"""The only module that imports asks; it replaces most parts of it.

Invariant: one call of `CheckedSession.ask` is one request and one response over a connection to a checked address. It
follows no redirect, keeps no cookie, and reads nothing beyond the bounds. Every failure is a `LinkFailed`.

asks writes the request fields and h11 checks them. The rest is replaced, for these faults of asks 3.0.0:

- `Session._connect` resolves the name itself, and cuts IPv6 hosts at the colon → connect to the checked address, with
  the right name for TLS.
- Its pool is searched linearly and never closes connections → `IdleConnections`.
- `Session.request` retries on the same dead socket after a bad response → retry on a new connection, and only if a
  reused one sent nothing at all.
- `_request_io` sends `Content-Length: 0` with a GET, follows redirects on a socket that it asked to close, and parses
  cookies → one request, one response.
- `make_request` builds and checks the same fields for every link, and `_send` makes two calls through h11's states (a
  sixth of all CPU time together) → the fields are built once per session, then each link is one write. Host and path
  cannot break out of their lines, because the URL standard's parser has written both.
- `requote_uri` decodes escapes (%41 to A) and doubles others (%zz to %25zz), which breaks signed URLs → the path
  is sent as the URL standard's parser writes it, with escapes unchanged.
- `_grab_connection` takes the URL apart and joins it again → the target's own origin.
- `_catch_response` decodes headers as strict UTF-8, ignores a body without a length, does not skip interim responses,
  and has no limits → `ResponseReader`.
"""

import socket
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address

import h11
import trio
from asks.request_object import RequestProcessor
from asks.sessions import Session

from dataset.pictures.outcomes import Outcome
from workers.fetching.address_limit import AddressLimiter
from workers.fetching.addresses import Address, AddressRule
from workers.fetching.connection import Connection, IdleConnections, PlainByteStream, close_socket
from workers.fetching.failure import LinkFailed
from workers.fetching.policy import FetchPolicy
from workers.fetching.resolve import Resolver
from workers.fetching.response import Reply, RequestContext, ResponseReader, StaleConnectionError
from workers.fetching.target import Target, parse_target
from workers.fetching.tls import tls_context

MAX_ADDRESSES = 2
"""Addresses tried per name, in the resolver's order; each gets an equal part of the time."""


class CheckedSession(Session):  # type: ignore[misc]  # asks is not annotated
    """A session that connects only to checked addresses, and keeps a bounded number of idle connections."""

    def __init__(self, policy: FetchPolicy, resolver: Resolver) -> None:
        super().__init__(connections=policy.concurrency)
        self.policy = policy
        self._resolver = resolver
        self._rule = AddressRule(policy.allow_networks, policy.allow_ports)
        self._limiter = AddressLimiter(policy.per_address, policy.address_spacing_seconds)
        self._idle = IdleConnections(policy.concurrency)
        self._tls: ssl.SSLContext | None = None
        self._fields = b""

    async def ask(self, target: Target, context: RequestContext) -> Reply:
        """Send one GET and return its response.

        Raises: LinkFailed.
        """
        if not (self.policy.per_address or self.policy.address_spacing_seconds):
            return await self._ask(target, context)
        with context.paused():  # DNS has its own limit, and waiting for other requests is not this link's fault
            addresses = await self._resolver.resolve(target.host)
            await self._limiter.acquire(addresses[0])
        try:
            return await self._ask(target, context)
        finally:
            self._limiter.release(addresses[0])

    async def _ask(self, target: Target, context: RequestContext) -> Reply:
        while True:
            connection = self._checkout_connection(target.origin)
            if connection is None:
                connection = await self._make_connection(target.origin)
            assert connection is not None
            try:
                return await self._exchange(target, connection, context)
            except StaleConnectionError:
                continue
            finally:
                await self.return_to_pool(connection)

    async def _exchange(self, target: Target, connection: Connection, context: RequestContext) -> Reply:
        if not self._fields:
            self._fields = await _RequestFields.of(self)
        reader = ResponseReader(connection, self.policy, context)
        connection.begin()
        try:
            path, host = target.path.encode("ascii"), target.authority.encode("ascii")
            await connection.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (path, host, self._fields))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise reader.broken("the connection broke before a response") from error
        return await reader.read()

    async def close(self) -> None:
        """Close the idle connections."""
        self._idle.close()

    def _checkout_connection(self, host_loc: str) -> Connection | None:
        return self._idle.take(host_loc)

    async def return_to_pool(self, sock: Connection) -> None:
        """Keep a connection whose last exchange ended properly; close others."""
        if sock.is_clean:
            self._idle.put(sock)
        else:
            sock.close()

    async def _connect(self, host_loc: str) -> tuple[Connection, str]:
        target = parse_target(host_loc)
        self._rule.check((), target.port)
        addresses = await self._resolver.resolve(target.host)
        self._rule.check(addresses, target.port)
        with trio.move_on_after(self.policy.connect_seconds):
            connected = await self._open(addresses[:MAX_ADDRESSES], target.port)
            if target.scheme == "http":
                return Connection(PlainByteStream(connected), connected), str(target.port)
            return Connection(await self._secure(connected, target.host), connected), str(target.port)
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
        raise LinkFailed(Outcome.CONNECT_ERROR, "the connection was refused or the host is unreachable")

    async def _secure(self, connected: socket.socket, host: str) -> trio.abc.Stream:
        is_secure = False
        try:
            # takes 30 ms, so it is created only when needed
            self._tls = self._tls or tls_context(verify=self.policy.verify_tls)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(connected))
            secured = trio.SSLStream(stream, self._tls, server_hostname=host, https_compatible=True)
            await secured.do_handshake()
            is_secure = True
        except (trio.BrokenResourceError, ssl.SSLError, ValueError) as error:
            cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
            unknown = isinstance(cause, ssl.SSLCertVerificationError)
            reason = "the certificate is not valid for the host" if unknown else "the handshake failed"
            raise LinkFailed(Outcome.TLS_ERROR, reason) from error
        finally:
            if not is_secure:
                close_socket(connected)
        return secured


class _RequestFields(RequestProcessor):  # type: ignore[misc]  # asks is not annotated
    """The fields that all requests of a session share; Host is not among them."""

    @classmethod
    async def of(cls, session: CheckedSession) -> bytes:
        """Return the fields, built by asks and checked by h11."""
        headers = {
            "User-Agent": session.policy.user_agent,
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",  # pictures are already compressed
            "Connection": "keep-alive",
        }
        form = cls(session, "GET", "http://host/", "80", headers=headers, encoding="utf-8")
        _, fields = await form.make_request()
        return bytes(fields)

    async def _request_io(self, h11_request: h11.Request, *_: object) -> bytes:
        own = (b"Host", b"Content-Length")
        return b"\r\n".join(b"%b: %b" % field for field in h11_request.headers.raw_items() if field[0] not in own)
