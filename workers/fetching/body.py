"""Bodies: bounded decompression, and one memory budget for all bodies.

Invariant: a body never exceeds `max_bytes`, compressed or not; all bodies together never exceed `MemoryBudget.limit`
plus `FREE_BYTES` per connection. A body takes its whole share at once, so bodies cannot wait for each other in a
circle.

Rejected: taking memory piece by piece, which deadlocks when every body waits for its next piece.
"""

import zlib
from collections import deque
from types import TracebackType
from typing import Self

import trio

from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed

FREE_BYTES = 64 << 10
"""The first bytes of each body, which do not count against the budget. Most pictures are smaller; the mean is 55 KB."""

MAX_MEMBERS = 1_000
"""Limit per gzip body; bgzip writes one member per 64 KB. A megabyte of empty members would need 52,000 decompressors.
"""

_GZIP = frozenset({b"gzip", b"x-gzip"})
_GZIP_MAGIC = b"\x1f\x8b"
_WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # zlib's codes for gzip and zlib
_UNKNOWN_CODINGS = frozenset({b"br", b"zstd", b"compress", b"x-compress", b"dcb", b"dcz"})
"""Codings that cannot be decoded and were not requested. Any other word is a mistake, such as utf-8, and is ignored."""


class Decoder:
    """Decodes a Content-Encoding piece by piece, up to `max_bytes`."""

    def __init__(self, content_encoding: bytes, max_bytes: int) -> None:
        """Raises: LinkFailed (bad_response) for an unknown coding, or for more than one."""
        codings = [coding.strip().lower() for coding in content_encoding.split(b",")]
        if any(coding in _UNKNOWN_CODINGS for coding in codings):
            raise LinkFailed(Outcome.BAD_RESPONSE, "a content coding that was not requested")
        known = [coding for coding in codings if coding in _WINDOW_BITS]
        if len(known) > 1:
            raise LinkFailed(Outcome.BAD_RESPONSE, "coded more than once")
        self._coding = known[0] if known else b""
        self._max_bytes = max_bytes
        self._inflate: zlib._Decompress | None = None
        self._pending = b""
        self._members = 1
        self._is_over = False
        self.data = bytearray()

    @property
    def is_plain(self) -> bool:
        """Return whether the bytes are not compressed."""
        return not self._coding

    def feed(self, data: bytes) -> None:
        """Add the next received bytes.

        Raises: LinkFailed: too_large beyond the limit, bad_response when the bytes contradict the header.
        """
        if self._coding and self._inflate is None:
            data, self._pending = self._pending + data, b""
            if len(data) < 2:
                self._pending = data
                return
            self._begin(data)
        if self._inflate is None:
            self.data += data
        elif not self._is_over:
            self._decompress(data)
        if len(self.data) > self._max_bytes:
            raise LinkFailed(Outcome.TOO_LARGE, "over the byte limit after decompression")

    def finish(self) -> bytes:
        """Return the decoded body.

        Raises: LinkFailed (truncated) when the compressed stream is incomplete.
        """
        if self._inflate is None:
            return bytes(self.data or self._pending)
        if not self._inflate.eof:
            raise LinkFailed(Outcome.TRUNCATED, "the compressed body has no end")
        return bytes(self.data)

    def _decompress(self, data: bytes) -> None:
        """Decode the next bytes; a gzip body may have several members (RFC 1952, 2.2)."""
        assert self._inflate is not None
        while data and len(self.data) <= self._max_bytes:
            if self._inflate.eof:
                data, self._pending = self._pending + data, b""
                if not self._begin_member(data):
                    return
            try:  # one byte more than allowed shows that the body is too large
                self.data += self._inflate.decompress(data, self._max_bytes + 1 - len(self.data))
            except zlib.error as error:
                raise LinkFailed(Outcome.BAD_RESPONSE, "damaged compression") from error
            data = self._inflate.unused_data

    def _begin_member(self, data: bytes) -> bool:
        """Begin the next gzip member; anything else is padding, which browsers ignore, too."""
        if self._coding in _GZIP and data == _GZIP_MAGIC[:1]:
            self._pending = data
            return False
        if self._coding not in _GZIP or data[:2] != _GZIP_MAGIC:
            self._is_over = True
            return False
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise LinkFailed(Outcome.BAD_RESPONSE, "too many gzip members")
        self._inflate = zlib.decompressobj(31)
        return True

    def _begin(self, data: bytes) -> None:
        """Choose the format by the first two bytes: many servers send plain files as gzip, or raw deflate."""
        bits = _WINDOW_BITS[self._coding]
        if bits == 31 and data[:2] != _GZIP_MAGIC:
            self._coding = b""
            return
        if bits == 15 and (data[0] & 0x0F != 8 or int.from_bytes(data[:2], "big") % 31):
            bits = -15
        self._inflate = zlib.decompressobj(bits)


class MemoryBudget:
    """The bytes that all bodies together may hold, granted first come first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    def share(self) -> "MemoryShare":
        """Return a share; use it as a context manager for the life of a body."""
        return MemoryShare(self)

    async def take(self, size: int) -> None:
        """Wait until `size` bytes are free, and take them."""
        if not self._waiting and self.held + size <= self.limit:
            self.held += size
            return
        turn = (size, trio.Event())
        self._waiting.append(turn)
        is_granted = False
        try:
            await turn[1].wait()
            is_granted = True
        finally:
            if not is_granted:
                self._withdraw(turn)

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.held -= size
        self._wake()

    def _withdraw(self, turn: tuple[int, trio.Event]) -> None:
        """Leave the queue, or give back what was granted during the cancellation."""
        if turn[1].is_set():
            self.give(turn[0])
        else:
            self._waiting.remove(turn)
            self._wake()

    def _wake(self) -> None:
        while self._waiting and self.held + self._waiting[0][0] <= self.limit:
            size, turn = self._waiting.popleft()
            self.held += size
            turn.set()


class MemoryShare:
    """One body's part of the budget; leaving the context gives it back."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def covers(self, size: int) -> bool:
        """Return whether a body of `size` bytes needs no more of the budget."""
        return size <= FREE_BYTES or self._size > 0

    async def cover(self, size: int) -> None:
        """Take memory for a body of `size` bytes; only the first call that needs memory may wait."""
        if self.covers(size):
            return
        size = min(size, self._budget.limit)
        await self._budget.take(size)
        self._size = size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._size:
            self._budget.give(self._size)
            self._size = 0
