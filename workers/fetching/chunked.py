"""The chunked transfer coding, as tolerant of its lines as browsers are.

Invariant: pure; a body is over only after its last chunk and the empty line behind the trailer. A chunk's size is
hexadecimal digits and nothing else, and a chunk ends where its size says.

Source: RFC 9112, 7.1. Seen on the web and refused by h11: blanks before an extension, which the RFC allows, and lines
that end in a line feed alone.
"""

import re
from enum import Enum, auto

from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed

MAX_LINE_BYTES = 16 << 10
"""Of a chunk's line or the whole trailer; browsers stop there, too."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,20})[ \t]*(?:;.*)?\r?\Z", re.DOTALL)


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    OVER = auto()


class ChunkDecoder:
    """Takes bytes from the wire in any pieces, and returns the body's."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._state = _State.SIZE
        self._left = 0
        self._trailer_bytes = 0

    @property
    def is_over(self) -> bool:
        """Whether the body has ended, with nothing behind it."""
        return self._state is _State.OVER and not self._buffer

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the wire."""
        self._buffer += data

    def next_piece(self) -> bytes | None:
        """Return the next piece of the body: nothing at the end, None where more bytes are needed first.

        Raises: LinkFailed (bad_response) for what is no chunked body.
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
