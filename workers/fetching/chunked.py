"""The chunked transfer coding, as tolerant as browsers are.

Invariant: no I/O. A body is over only after the last chunk and the empty line after the trailer. A chunk's size is
hexadecimal digits only, and the chunk ends where its size says.

Source: RFC 9112, 7.1. Seen on the web but refused by h11: blanks before an extension, which the RFC allows, and lines
that end in a bare line feed.
"""

import re
from enum import Enum, auto

from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed

MAX_LINE_BYTES = 16 << 10
"""Limit for a chunk's size line, and for the whole trailer, as in browsers."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;.*)?\r?\Z", re.DOTALL)


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    OVER = auto()


class ChunkDecoder:
    """Takes received bytes in pieces of any size, and returns the bytes of the body."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._state = _State.SIZE
        self._left = 0
        self._trailer_bytes = 0

    @property
    def is_over(self) -> bool:
        """Whether the body has ended and nothing follows it."""
        return self._state is _State.OVER and not self._buffer

    def feed(self, data: bytes) -> None:
        """Add the next received bytes."""
        self._buffer += data

    def next_piece(self) -> bytes | None:
        """Return the next piece of the body: b"" at the end, None if more bytes are needed first.

        Raises: LinkFailed (bad_response) for an invalid chunked body.
        """
        while self._state is not _State.OVER:
            if self._state is _State.DATA:
                return self._take_data() if self._buffer else None
            line = self._take_line()
            if line is None:
                return None
            self._read_line(line)
        return b""

    def _take_data(self) -> bytes:
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(piece)
        if not self._left:
            self._state = _State.DATA_END
        return piece

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n")
        if (end if end >= 0 else len(self._buffer)) > (2 if self._state is _State.DATA_END else MAX_LINE_BYTES):
            raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _read_line(self, line: bytes) -> None:
        match self._state:
            case _State.SIZE:
                size = _SIZE.match(line)
                if size is None:
                    raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing")
                self._left = int(size[1], 16)
                self._state = _State.DATA if self._left else _State.TRAILER
            case _State.DATA_END:
                if line not in (b"", b"\r"):
                    raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing")
                self._state = _State.SIZE
            case _State.TRAILER:
                self._trailer_bytes += len(line)
                if self._trailer_bytes > MAX_LINE_BYTES:
                    raise LinkFailed(Outcome.BAD_RESPONSE, "broken framing")
                if line in (b"", b"\r"):
                    self._state = _State.OVER
