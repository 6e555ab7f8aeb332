"""Read a text list as bytes, unpacked and without byte-order mark, and as lines.

Memory is bounded: a line over MAX_LINE_BYTES is skipped and replaced by None. A gzip file is read to the end of its
last member (RFC 1952, 2.2), or an error is raised.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20
GZIP_MAGIC = b"\x1f\x8b"

Lines = list[str | None]
"""Lines without line ends; None for a line that is too long."""


class TextListError(ValueError):
    """The file does not have its format, or lacks a column. The message continues a sentence after the file's name."""


class Text:
    """A file's unpacked content, which can be read once; `source` has `read(size)`."""

    def __init__(self, source: Any, *, is_gzip: bool) -> None:
        head = source.read(BLOCK_BYTES)
        unread: Any = _Joined(head, source)
        if is_gzip or head.startswith(GZIP_MAGIC):
            unpacked = gzip.GzipFile(fileobj=unread, mode="rb")
            head = _unpacked(unpacked)
            unread = _Joined(head, unpacked)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise TextListError("is UTF-16: write it as UTF-8")
        if head.startswith(codecs.BOM_UTF8):
            head = head[len(codecs.BOM_UTF8) :]
            unread.read(len(codecs.BOM_UTF8))
        self.begin = head
        """The beginning of the content, at most one block."""
        self._unread = unread
        self._end = b"\r" if b"\n" not in head and b"\r" in head else b"\n"

    def read(self) -> bytes:
        """Return the next block, b"" at the end.

        Raises: TextListError when gzip data is damaged or breaks off; OSError when the source cannot be read.
        """
        return _unpacked(self._unread)

    def lines(self) -> Iterator[Lines]:
        """Yield the lines of each block; a byte that is not UTF-8 becomes a lone surrogate.

        Raises: as `read`.
        """
        begun, is_too_long = b"", False
        while block := self.read():
            lines: Lines = []
            if is_too_long:
                _, end, block = block.partition(self._end)
                if not end:
                    continue
                lines, is_too_long = [None], False
            whole, end, rest = block.rpartition(self._end)
            if end:
                lines += self._split(begun + whole)
                begun = rest
            else:
                begun += rest
            if len(begun) > MAX_LINE_BYTES:
                begun, is_too_long = b"", True
            yield lines
        if is_too_long:
            yield [None]
        elif begun:
            yield list(self._split(begun))

    def _split(self, lines: bytes) -> list[str]:
        text = lines.decode("utf-8", "surrogateescape")
        if "\r" in text:
            text = text.replace("\r", "\n") if self._end == b"\r" else text.replace("\r\n", "\n").removesuffix("\r")
        return text.split("\n")


class _Joined:
    """Reads the bytes already taken from a file, then the rest of the file."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def read(self, size: int) -> bytes:
        return self._head.read(size) or bytes(self._rest.read(size))


def _unpacked(source: Any) -> bytes:
    try:
        return bytes(source.read(BLOCK_BYTES))
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise TextListError(f"has gzip data that is damaged or breaks off ({error}): fetch it again") from error
