"""Reading one response, tolerantly and within bounds.

Invariant: nothing is read beyond the policy's bytes and time; a connection is marked clean (fit for another request)
only when the response ended where it said it would and nothing followed it.

`response_head` parses the head. A body of announced length, as nearly all pictures have, is counted here; `chunked`
reads a body in chunks; h11 frames the others.

Rejected: h11 on the raw bytes, which refuses about one picture in several hundred because of headers that browsers
accept, and limits heads to 16 KB; h11 for every response, which copies each body three times (1.2 ms of CPU per
picture, now 0.93).
"""

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import h11
import trio

from dataset.pictures.headers import SNIFF_BYTES
from dataset.pictures.outcomes import Outcome
from workers.fetching.body import FREE_BYTES, Decoder, MemoryShare
from workers.fetching.chunked import ChunkDecoder
from workers.fetching.connection import Connection
from workers.fetching.failure import LinkFailed
from workers.fetching.policy import FetchPolicy
from workers.fetching.response_head import END_OF_HEAD, MAX_HEAD_BYTES, ResponseHead, repair_head

MAX_INTERIM_RESPONSES = 8
"""Responses 100, 102 and 103 before the final one."""

DRAIN_BYTES = 16 << 10
"""An unwanted body up to this size is read to its end, so that the connection can be kept."""

RATE_GRACE_SECONDS = 5.0

FRAMING_SLACK_BYTES = 1 << 20
"""Allowance for heads and chunk framing on top of the byte limit."""

MIN_CHUNK_BYTES = 64
"""Minimum mean size after 1,000 chunks. Parsing a megabyte of one-byte chunks takes 20 seconds of CPU."""

_SOME_GET = h11.Request(method="GET", target="/", headers=[("Host", "host")])
"""h11 needs only the method to frame the response."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: header names in lower case; the decoded body, or b"" if it was not wanted."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        """Return the first nonempty header of that name, as browsers do for Location, or None."""
        return next((value for found, value in self.headers if found == name and value), None)


@dataclass(slots=True)
class RequestContext:
    """A link's state across all its requests."""

    share: MemoryShare
    scope: trio.CancelScope
    """The link's deadline; it moves by the time that the link waits for this worker's memory."""
    wants_body: Callable[[Reply], bool]
    """Called with the head of each response; a body that is not wanted is not read."""
    wants_start: Callable[[bytes], bool]
    """Called with the first `SNIFF_BYTES` of the body; False ends the link as not_an_image."""
    is_heard: bool = True
    """Whether the head of the response to the last request has arrived."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the link's clock during a wait that is not its fault; the deadline moves by that time."""
        asked, deadline = trio.current_time(), self.scope.deadline
        self.scope.deadline = math.inf
        try:
            yield
        finally:
            self.scope.deadline = deadline + trio.current_time() - asked


class StaleConnectionError(Exception):
    """A reused connection ended before it sent a byte."""


class ResponseReader:
    """Reads one response from a connection."""

    def __init__(self, connection: Connection, policy: FetchPolicy, context: RequestContext) -> None:
        self._connection = connection
        self._policy = policy
        self._context = context
        self._is_kept = connection.requests > 0
        self._received_bytes = 0

    async def read(self) -> Reply:
        """Return the response, with the body if it is wanted.

        Raises: LinkFailed; StaleConnectionError when a reused connection ends before it sends a byte.
        """
        try:
            head, rest = await self._receive_head_in_time()
            body = self._body(head, rest)
            reply = Reply(head.status, head.fields)
            if self._context.wants_body(reply):
                reply = Reply(head.status, head.fields, await self._receive_body(body, reply))
            else:
                await self._drain(body, reply)
        except trio.BrokenResourceError as error:
            raise LinkFailed(Outcome.TRUNCATED, "the connection broke within the body") from error
        self._connection.is_clean = body.is_over
        return reply

    def _body(self, head: ResponseHead, rest: bytes) -> "_Body":
        if head.length is not None:
            return _CountedBody(self._receive, head, rest)
        if head.is_chunked:
            return _ChunkedBody(self._receive, head, rest)
        return _FramedBody(self._receive, head, rest)

    async def _receive_head_in_time(self) -> tuple[ResponseHead, bytes]:
        """Read the head with a deadline of its own. The link's scope is reused, because a new one costs 11 µs."""
        scope = self._context.scope
        deadline = scope.deadline
        self._context.is_heard = False
        scope.deadline = min(deadline, trio.current_time() + self._policy.first_byte_seconds)
        try:
            received = await self._receive_head()
        finally:  # also for a stale connection, after which the link goes on
            scope.deadline = deadline
        self._context.is_heard = True
        return received

    async def _receive_head(self) -> tuple[ResponseHead, bytes]:
        """Read up to the first final response; return its head and the bytes read after it."""
        buffer = bytearray()
        searched = interim = 0
        while True:
            end = END_OF_HEAD.search(buffer, max(0, searched - 3))
            searched = len(buffer)
            if (end.start() if end else searched) > MAX_HEAD_BYTES:
                raise LinkFailed(Outcome.BAD_RESPONSE, "the head is over 64 KB")
            if end is None:
                await self._receive_head_bytes(buffer)
                continue
            head = repair_head(bytes(buffer[: end.start()]))
            del buffer[: end.end()]
            searched = 0
            if head.status >= 200:
                return head, bytes(buffer)
            interim += 1
            if interim > MAX_INTERIM_RESPONSES or head.status == 101:
                raise LinkFailed(Outcome.BAD_RESPONSE, "too many interim responses")

    async def _receive_head_bytes(self, buffer: bytearray) -> None:
        try:
            data = await self._receive()
        except trio.BrokenResourceError as error:
            raise self.broken("the connection broke before a response") from error
        if not data:
            if self._is_kept and not buffer:
                raise StaleConnectionError
            raise LinkFailed(Outcome.BAD_RESPONSE, "the connection ended before a response")
        buffer += data if buffer else data.lstrip(b"\r\n")

    async def _receive_body(self, body: "_Body", reply: Reply) -> bytes:
        limit = self._policy.max_bytes
        length = int(reply.header(b"content-length") or -1)
        if length > limit:
            raise LinkFailed(Outcome.TOO_LARGE, "announced over the byte limit")
        decoder = Decoder(reply.header(b"content-encoding") or b"", limit)
        started = trio.current_time()
        started += await self._cover(limit if not decoder.is_plain else length)
        pieces = received = 0
        is_sniffed = False
        while piece := await body.receive():
            pieces += 1
            received += len(piece)
            self._check_pace(pieces, received, trio.current_time() - started)
            if length < 0 and received > FREE_BYTES:
                started += await self._cover(limit)
            decoder.feed(piece)
            if not is_sniffed and len(decoder.data) >= SNIFF_BYTES:
                is_sniffed = True
                if not self._context.wants_start(bytes(decoder.data[:SNIFF_BYTES])):
                    raise LinkFailed(Outcome.NOT_AN_IMAGE, "the body does not begin as an image")
        return decoder.finish()

    def _check_pace(self, pieces: int, received: int, seconds: float) -> None:
        if received > self._policy.max_bytes:
            raise LinkFailed(Outcome.TOO_LARGE, "over the byte limit")
        if pieces > 1_000 and received < pieces * MIN_CHUNK_BYTES:
            raise LinkFailed(Outcome.BAD_RESPONSE, "chunks of a few bytes")
        if seconds > RATE_GRACE_SECONDS and received < seconds * self._policy.min_bytes_per_second:
            raise LinkFailed(Outcome.TIMEOUT, "the body is too slow")

    async def _cover(self, size: int) -> float:
        """Take memory for the body; return the seconds waited. The link's deadline moves by them."""
        if self._context.share.covers(size):
            return 0.0
        asked = trio.current_time()
        await self._context.share.cover(size)
        waited = trio.current_time() - asked
        self._context.scope.deadline += waited
        return waited

    async def _drain(self, body: "_Body", reply: Reply) -> None:
        """Read a short unwanted body to its end, so that the connection is clean afterwards."""
        received = 0
        if int(reply.header(b"content-length") or 0) <= DRAIN_BYTES:
            while received <= DRAIN_BYTES and (piece := await body.receive()):
                received += len(piece)

    async def _receive(self) -> bytes:
        data = await self._connection.receive()
        self._received_bytes += len(data)
        if self._received_bytes > self._policy.max_bytes + FRAMING_SLACK_BYTES:
            raise LinkFailed(Outcome.TOO_LARGE, "over the byte limit on the wire")
        return data

    def broken(self, reason: str) -> Exception:
        """Return the exception for a connection that broke before a response: stale if it was reused."""
        if self._is_kept and not self._received_bytes:
            return StaleConnectionError()
        return LinkFailed(Outcome.CONNECT_ERROR, reason)


class _Body(Protocol):
    """A body that is read in pieces."""

    @property
    def is_over(self) -> bool:
        """Return whether the body ended as announced, nothing followed it, and the connection may be reused."""

    async def receive(self) -> bytes:
        """Return the next piece; b"" at the end.

        Raises: LinkFailed; trio.BrokenResourceError.
        """


class _CountedBody:
    """A body of announced length."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]], head: ResponseHead, rest: bytes) -> None:
        assert head.length is not None
        self._receive = receive
        self._left = head.length
        self._rest = rest
        self._may_follow = not head.ends_connection
        self.is_over = self._may_follow and not (self._left or rest)

    async def receive(self) -> bytes:
        if not self._left:
            return b""
        piece, self._rest = self._rest or await self._receive(), b""
        if not piece:
            raise LinkFailed(Outcome.TRUNCATED, "the connection ended before the body")
        self.is_over = self._may_follow and len(piece) == self._left
        piece = piece[: self._left]
        self._left -= len(piece)
        return piece


class _ChunkedBody:
    """A body in chunks."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]], head: ResponseHead, rest: bytes) -> None:
        self._receive = receive
        self._may_follow = not head.ends_connection
        self._decoder = ChunkDecoder()
        self._decoder.feed(rest)

    @property
    def is_over(self) -> bool:
        return self._may_follow and self._decoder.is_over

    async def receive(self) -> bytes:
        while (piece := self._decoder.next_piece()) is None:
            data = await self._receive()
            if not data:
                raise LinkFailed(Outcome.TRUNCATED, "the connection ended before the body")
            self._decoder.feed(data)
        return piece


class _FramedBody:
    """A body that ends with the connection, or a response without a body; framed by h11."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]], head: ResponseHead, rest: bytes) -> None:
        self._receive = receive
        self._framing = h11.Connection(our_role=h11.CLIENT)
        self._framing.send(_SOME_GET)
        self._framing.send(h11.EndOfMessage())
        self._has_ended = False
        try:
            self._framing.receive_data(head.to_bytes())
            if not isinstance(self._framing.next_event(), h11.Response):
                raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing")
        except h11.RemoteProtocolError as error:
            raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing") from error
        if rest:
            self._framing.receive_data(rest)

    @property
    def is_over(self) -> bool:
        states = (self._framing.our_state, self._framing.their_state)
        return states == (h11.DONE, h11.DONE) and not self._framing.trailing_data[0]

    async def receive(self) -> bytes:
        try:
            while True:
                event = self._framing.next_event()
                if isinstance(event, h11.Data) and event.data:
                    return bytes(event.data)
                if isinstance(event, h11.EndOfMessage):
                    return b""
                if event is h11.NEED_DATA:
                    data = await self._receive()
                    self._has_ended = not data
                    self._framing.receive_data(data)
                elif not isinstance(event, h11.Data):
                    raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing")
        except h11.RemoteProtocolError as error:
            if self._has_ended:
                raise LinkFailed(Outcome.TRUNCATED, "the connection ended before the body") from error
            raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing") from error
