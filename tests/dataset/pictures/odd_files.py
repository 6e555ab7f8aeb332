"""Files that encoders do not write: PNG chunks, ICC profiles and EXIF that are built by hand."""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image, ImageCms


def png_chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """Return a chunk; its checksum is right unless one is given."""
    crc = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, before: bytes = b"") -> bytes:
    """Return a PNG of rows that begin with their filter's byte; `before` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def exif(orientation: int, kind: int = 3, count: int = 1, order: str = ">") -> bytes:
    """Return EXIF data (TIFF alone) with an orientation of any type."""
    head = b"MM\0*\0\0\0\x08" if order == ">" else b"II*\0\x08\0\0\0"
    value = struct.pack(order + "H", orientation) + b"\0\0"
    return head + struct.pack(order + "HHHI", 1, 0x0112, kind, count) + value + bytes(4)


def icc_profile(
    space: bytes, kind: bytes = b"mntr", *, gamma: float = 1.0, exchanged: bool = False, description: str = "odd"
) -> bytes:
    """Return a profile of a class: grey or RGB with a gamma, its red and blue exchanged if asked for, or of inks."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = _tags(srgb)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = description.encode("ascii") + b"\0"
    said = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    chosen = {b"desc": said, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": tags[b"wtpt"]}
    if space == b"GRAY":
        chosen[b"kTRC"] = curve
    elif space == b"CMYK":
        chosen[b"A2B0"] = _table_of_inks()
    else:
        red, blue = (b"bXYZ", b"rXYZ") if exchanged else (b"rXYZ", b"bXYZ")
        chosen |= {b"rXYZ": tags[red], b"gXYZ": tags[b"gXYZ"], b"bXYZ": tags[blue]}
        chosen |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(srgb, space, kind, chosen)


def _table_of_inks() -> bytes:
    """Return a table (lut8) from four inks to CIELAB: one that no formula for CMYK is near to."""
    identity = b"".join(struct.pack(">i", 65_536 * (row == column)) for row in range(3) for column in range(3))
    corners = b"".join(bytes((255 - 60 * ink.bit_count(), 40 + 12 * ink, 230 - 9 * ink)) for ink in range(16))
    head = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity
    return head + bytes(range(256)) * 4 + corners + bytes(range(256)) * 3


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * number) for number in range(count)]
    return {name: profile[place : place + size] for name, place, size in entries}


def _profile(model: bytes, space: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    place = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = bytearray(model[:128])
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = kind + space + (b"Lab " if b"A2B0" in tags else b"XYZ ")
    whole = bytes(header) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_profile(data: bytes, kind: str, profile: bytes) -> bytes:
    """Put a profile into a picture's file without asking an encoder for its opinion."""
    return _WITH_PROFILE[kind](data, profile)


def with_exif(data: bytes, kind: str, said: bytes) -> bytes:
    """Put EXIF data into a picture's file likewise."""
    return _WITH_EXIF[kind](data, said)


def _jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(content)) + content


def _webp_with(flag: int, before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        size = Image.open(io.BytesIO(data)).size
        chunks = data[12:]
        if chunks[:4] == b"VP8X":
            flags, chunks = chunks[8] | flag, chunks[18:]
        else:
            flags = flag
        edges = b"".join((side - 1).to_bytes(3, "little") for side in size)
        body = b"WEBP" + webp_chunk(b"VP8X", bytes((flags, 0, 0, 0)) + edges) + before + chunks + after
        return b"RIFF" + struct.pack("<I", len(body)) + body

    return changed


_WITH_PROFILE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "JPEG": lambda data, icc: data[:2] + _jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + icc) + data[2:],
    "PNG": lambda data, icc: data[:33] + png_chunk(b"iCCP", b"p\0\0" + zlib.compress(icc)) + data[33:],
    "WEBP": lambda data, icc: _webp_with(0x20, webp_chunk(b"ICCP", icc), b"")(data),
}

_WITH_EXIF: dict[str, Callable[[bytes, bytes], bytes]] = {
    "JPEG": lambda data, said: data[:2] + _jpeg_segment(0xE1, b"Exif\0\0" + said) + data[2:],
    "PNG": lambda data, said: data[:33] + png_chunk(b"eXIf", said) + data[33:],
    "WEBP": lambda data, said: _webp_with(0x08, b"", webp_chunk(b"EXIF", said))(data),
}
