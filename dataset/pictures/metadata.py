"""Read a picture file's metadata that affects its pixels, and return the file without all metadata.

Invariant: pure and total. Damaged metadata never costs the picture: the codec gets the pixels without it.

Only what browsers respect is read: an embedded colour profile, the EXIF orientation, and PNG's colour key. Codecs see
no metadata, because they are stricter than browsers: Pillow refuses a PNG with a wrong checksum in a comment, and
libwebp's demuxer a WebP whose RIFF length is off by one.

Source: EXIF 2.3 (table 6 and section 4.6.2), ICC.1 annex B.4 (JPEG), PNG 1.2, RFC 9649. As in browsers, an orientation
is one SHORT in the first IFD; in a PNG it counts only before the pixels (w3c/png issue 146); an orientation in XMP or
in a PNG's text does not count, although Pillow's `getexif` returns both.
"""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dataset.pictures.containers import PNG_MAGIC, SOI, is_intact, jpeg_segments, png_chunks, webp_chunks

MAX_PROFILE_BYTES = 8 << 20
"""The largest printer profiles have 3 MB."""

MAX_ENTRIES = 1_000
"""Limit for the entries of an EXIF directory; cameras write about ten."""

_EXIF_HEAD = b"Exif\0\0"
_ICC_HEAD = b"ICC_PROFILE\0"
_ORIENTATION, _SHORT = 0x0112, 3


@dataclass(frozen=True, slots=True)
class Bare:
    """A file reduced to its pixels, and the metadata about them."""

    data: bytes
    profile: bytes | None = None
    orientation: int = 1
    colour_key: tuple[int, ...] | None = None
    """The transparent grey or RGB value of a PNG without alpha, in the file's own bit depth."""
    depth: int = 8
    """Bits per sample of that PNG."""


def separate(data: bytes, kind: str) -> Bare:
    """Separate a file's pixels from its metadata; a format without a reader is returned as it is."""
    reader = _READERS.get(kind)
    return reader(data) if reader else Bare(data)


def read_orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8) in EXIF data; 1 (upright) if there is none or the data is damaged."""
    tiff = exif.removeprefix(_EXIF_HEAD)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, place)
        for number in range(min(count, MAX_ENTRIES)):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", tiff, place + 2 + 12 * number)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and values == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def read_jpeg_metadata(data: bytes) -> tuple[bytes | None, int]:
    """Return a JPEG's profile and orientation."""
    exif: bytes | None = None
    pieces: list[bytes] = []
    for marker, start, end in jpeg_segments(data):
        if marker == 0xE1 and exif is None and data.startswith(_EXIF_HEAD, start + 4):
            exif = data[start + 4 : end]
        elif marker == 0xE2 and data.startswith(_ICC_HEAD, start + 4):
            pieces.append(data[start + 4 + len(_ICC_HEAD) : end])
    return _joined(pieces) if pieces else None, read_orientation(exif) if exif else 1


def _joined(pieces: Sequence[bytes]) -> bytes | None:
    """Join the pieces of a profile, each preceded by its number and the count; None if one is missing or duplicate."""
    numbered = sorted(pieces)
    wanted = [bytes((number, len(pieces) & 0xFF)) for number in range(1, len(pieces) + 1) if number < 256]
    return b"".join(piece[2:] for piece in numbered) if [piece[:2] for piece in numbered] == wanted else None


def _separate_jpeg(data: bytes) -> Bare:
    kept = [bytes((0xFF, SOI))]
    for marker, start, end in jpeg_segments(data):
        if not 0xE0 <= marker <= 0xFE or marker in (0xE0, 0xEE):  # JFIF and Adobe's segment define the colour space
            kept.append(data[start:end])
    return Bare(b"".join(kept), *read_jpeg_metadata(data))


def has_jpeg_end(data: bytes) -> bool:
    """Return whether an end-of-image marker follows the last scan's header."""
    return data.endswith(b"\xff\xd9") or data.rfind(b"\xff\xd9", max(0, data.rfind(b"\xff\xda"))) >= 0


def _separate_png(data: bytes) -> Bare:
    kept = [PNG_MAGIC]
    profile: bytes | None = None
    orientation, colour_key, is_palette, is_before_pixels = 1, None, False, True
    depth = data[24] if len(data) > 25 else 8
    is_palette = len(data) > 25 and data[25] == 3
    for chunk in png_chunks(data):
        content = slice(chunk.content_start, chunk.content_end)
        match chunk.name:
            case b"IHDR" | b"PLTE" | b"IDAT" | b"IEND":
                kept.append(data[chunk.start : chunk.end])
                is_before_pixels &= chunk.name != b"IDAT"
            case b"tRNS" if is_before_pixels and is_intact(data, chunk):
                if is_palette:
                    kept.append(data[chunk.start : chunk.end])
                else:
                    colour_key = _samples(data[content])
            case b"iCCP" if is_before_pixels and profile is None and is_intact(data, chunk):
                profile = _inflated(data[content])
            case b"eXIf" if is_before_pixels and is_intact(data, chunk):
                orientation = read_orientation(data[content])
    return Bare(b"".join(kept), profile, orientation, colour_key, depth)


def _samples(content: bytes) -> tuple[int, ...] | None:
    return struct.unpack(f">{len(content) // 2}H", content) if len(content) in (2, 6) else None


def _inflated(content: bytes) -> bytes | None:
    """Return the profile in an iCCP chunk, decompressed up to its own length."""
    name, _, compressed = content.partition(b"\0")
    if not name or compressed[:1] != b"\0":
        return None
    try:
        profile = zlib.decompressobj().decompress(compressed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    length = int.from_bytes(profile[:4], "big")
    return profile[:length] if 128 < length <= len(profile) else None


def _separate_webp(data: bytes) -> Bare:
    """Keep the still picture, or the first frame of an animation, in a RIFF file with the right length."""
    kept: list[bytes] = []
    profile, orientation, has_profile = None, 1, False
    for chunk in webp_chunks(data):
        content = data[chunk.content_start : chunk.content_end]
        match chunk.name:
            case b"VP8X" if not kept and len(content) >= 10:
                has_profile = bool(content[0] & _WEBP_PROFILE)
                kept.append(_riff(chunk.name, bytes((content[0] & (_WEBP_ALPHA | _WEBP_ANIMATION),)) + content[1:]))
            case b"ICCP" if has_profile and profile is None:
                profile = content
            case b"EXIF":
                orientation = read_orientation(content)
            case b"ANIM" | b"ALPH" | b"VP8 " | b"VP8L" | b"ANMF" if chunk.name not in {piece[:4] for piece in kept}:
                is_whole = chunk.content_end <= len(data)
                kept.append(_riff(chunk.name, content) if is_whole else data[chunk.start :])
    body = b"WEBP" + b"".join(kept)
    return Bare(_riff(b"RIFF", body), profile, orientation)


def _riff(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)


_WEBP_PROFILE, _WEBP_ALPHA, _WEBP_ANIMATION = 0x20, 0x10, 0x02

_READERS: Mapping[str, Callable[[bytes], Bare]] = {
    "JPEG": _separate_jpeg,
    "PNG": _separate_png,
    "WEBP": _separate_webp,
}
