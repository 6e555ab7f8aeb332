"""Iterate over the segments and chunks of JPEG, PNG and WebP files.

Invariant: pure and total. For any bytes the iteration ends; a chunk may claim to end past the file.

Source: ITU T.81 annex B (JPEG), PNG 1.2 section 3.2, RFC 9649 (WebP).
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
"""JPEG markers: start of image, end of image, start of scan."""


class Chunk(NamedTuple):
    """The name of a chunk, and the positions of the chunk and of its content."""

    name: bytes
    start: int
    content_start: int
    content_end: int
    end: int
    """Past the end of the file if the chunk is cut off."""


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to the first scan, whose end is the file's.

    A segment's content starts 4 bytes after its start. Bytes between segments are skipped, as libjpeg does.
    """
    place, last = 2, len(data) - 4
    while place <= last:
        if data[place] != 0xFF and (place := data.find(b"\xff", place)) < 0:
            return
        marker = data[place + 1] if place <= last else EOI
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker <= 0x01 or 0xD0 <= marker <= SOI:  # these have no length
            place += 2
        elif marker in (EOI, SOS):
            yield marker, place, len(data)
            return
        else:
            end = place + 2 + max(2, data[place + 2] << 8 | data[place + 3])
            yield marker, place, end
            place = end


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to IEND."""
    place = len(PNG_MAGIC)
    while place + 8 <= len(data):
        content = place + 8
        end = content + int.from_bytes(data[place : place + 4], "big")
        yield Chunk(data[place + 4 : content], place, content, end, end + 4)
        if data[place + 4 : content] == b"IEND":
            return
        place = end + 4


def is_intact(data: bytes, chunk: Chunk) -> bool:
    """Return whether a PNG chunk is complete and its checksum is right."""
    checksum = zlib.crc32(data[chunk.start + 4 : chunk.content_end])
    return data[chunk.content_end : chunk.end] == checksum.to_bytes(4, "big")


def webp_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks, ignoring the length in the RIFF header."""
    place = 12
    while place + 8 <= len(data):
        content = place + 8
        end = content + int.from_bytes(data[place + 4 : content], "little")
        yield Chunk(data[place : place + 4], place, content, end, end + end % 2)
        place = end + end % 2
