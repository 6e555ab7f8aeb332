"""Texts of rows in zstd frames with an offset table: 33–43 µs and 40–43 bytes a row for a URL and a caption.

A frame holds FRAME_ROWS rows, column after column:

    rows      uint32
    lengths   (columns, rows) uint32, NULL for a null
    bytes     the UTF-8 of the first column's texts, then of the second's …

Invariant: each frame has zstd's checksum, so a reader sees when a removal rewrites the frame under it, and reads again.
"""

import struct
import threading
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import FRAME_ROWS

NULL = 2**32 - 1
_SKIPPABLE = 0x184D2A50
"""The magic number of a zstd frame that decoders pass over (RFC 8878, section 3.1.2)."""
_SKIPPABLE_HEAD = 8
_SLACK = 32
"""Bytes of padding behind each frame: one from which texts were removed may compress to a few bytes more."""

Column = Sequence[str | None]

_of_thread = threading.local()


class FrameWriter:
    """Writes frames one after the other, and keeps their offsets."""

    def __init__(self, file: BinaryIO, columns: int) -> None:
        import zstandard

        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True)
        self._waiting: list[list[str | None]] = [[] for _ in range(columns)]
        self._offsets = [0]

    def write(self, columns: Sequence[Column]) -> None:
        """Add the rows of these columns, which have equal lengths."""
        for waiting, column in zip(self._waiting, columns, strict=True):
            waiting.extend(column)
        whole = len(self._waiting[0]) // FRAME_ROWS * FRAME_ROWS
        for start in range(0, whole, FRAME_ROWS):
            self._write_frame([column[start : start + FRAME_ROWS] for column in self._waiting])
        self._waiting = [column[whole:] for column in self._waiting]

    def finish(self) -> npt.NDArray[np.uint64]:
        """Write the last frame; return the offsets of all, and the end."""
        if self._waiting[0]:
            self._write_frame(self._waiting)
        return np.array(self._offsets, "<u8")

    def _write_frame(self, columns: Sequence[Column]) -> None:
        data = self._compressor.compress(pack(columns)) + _padding(_SLACK)
        self._file.write(data)
        self._offsets.append(self._offsets[-1] + len(data))


def pack(columns: Sequence[Column]) -> bytes:
    """Return the content of a frame."""
    encoded = [[None if text is None else text.encode(errors="replace") for text in column] for column in columns]
    lengths = np.array([[NULL if text is None else len(text) for text in column] for column in encoded], "<u4")
    texts = (b"".join([text or b"" for text in column]) for column in encoded)
    return b"".join([struct.pack("<I", len(columns[0])), lengths.tobytes(), *texts])


def unpack(data: bytes, columns: int) -> list[list[str | None]]:
    """Return the columns of a frame's content."""
    (rows,) = struct.unpack_from("<I", data)
    lengths = np.frombuffer(data, "<u4", rows * columns, 4).reshape(columns, rows)
    place = 4 + 4 * rows * columns
    found: list[list[str | None]] = []
    for column in lengths.tolist():
        texts: list[str | None] = []
        for length in column:
            texts.append(None if length == NULL else data[place : place + length].decode())
            place += 0 if length == NULL else length
        found.append(texts)
    return found


class Frame:
    """The content of a frame, as `decompress` returns it, with the places of its texts."""

    def __init__(self, data: bytes, columns: int) -> None:
        (self._rows,) = struct.unpack_from("<I", data)
        self._data = data
        self._lengths = np.frombuffer(data, "<u4", self._rows * columns, 4)
        sizes = np.where(self._lengths == NULL, 0, self._lengths)
        self._starts = np.cumsum(sizes, dtype=np.int64) - sizes + 4 + 4 * self._rows * columns

    def row(self, row: int) -> list[str | None]:
        """Return the texts of one row."""
        found: list[str | None] = []
        lengths, starts = self._lengths[row :: self._rows].tolist(), self._starts[row :: self._rows].tolist()
        for start, length in zip(starts, lengths, strict=True):
            found.append(None if length == NULL else self._data[start : start + length].decode())
        return found


def decompress(frame: bytes) -> bytes:
    """Return the content of a frame; what follows it, a skippable frame, is passed over.

    Raises: ValueError when its checksum is wrong.
    """
    import zstandard

    if not hasattr(_of_thread, "decompressor"):  # it may not be shared, and making one takes three times a frame's time
        _of_thread.decompressor = zstandard.ZstdDecompressor()
    try:
        content: bytes = _of_thread.decompressor.decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return content


def blanked(frame: bytes, columns: int, rows: Sequence[int]) -> bytes:
    """Return a frame and its padding, of the same length, without the texts of some rows.

    Raises: ValueError when the frame is damaged.
    """
    import zstandard

    found = unpack(decompress(frame), columns)
    for column in found:
        for row in rows:
            column[row] = None
    content = pack(found)
    for level in (3, 9, 19, 22):
        data = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress(content)
        if len(data) <= len(frame):
            return data + _padding(len(frame) - len(data))
    raise ValueError("it cannot be written shorter")


def _padding(size: int) -> bytes:
    """Return bytes that decoders pass over: a skippable frame, or zeros if they are too few for one."""
    if size < _SKIPPABLE_HEAD:
        return bytes(size)
    return struct.pack("<II", _SKIPPABLE, size - _SKIPPABLE_HEAD) + bytes(size - _SKIPPABLE_HEAD)
