"""Read the format and size of a picture from its header, in Python.

Invariant: pure and total. Any bytes give a picture or an outcome, never an exception. No codec is called, no pixel is
decoded, and no number from the file decides how much memory is used or how long a loop runs. So this may run in the
worker itself, where a crash in a codec would cost 512 links; decoding happens elsewhere (`pictures.prepare`, in the
processes of `workers.download.decoder_pool`).

Source: the formats' specifications: ITU T.81 (JPEG), PNG 1.2, GIF89a, RFC 9649 (WebP), ISO 14496-12 and AVIF 1.1.

Rejected: Pillow's `open`, which calls C libraries for the size of WebP and AVIF; libjpeg-turbo's header reader, which
is C, too (78 µs for a JPEG of 72 KB; this takes 2).
"""

import hashlib
import struct
from collections.abc import Callable, Mapping

from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture, Size
from dataset.recipe.image_rules import ImageRules

SNIFF_BYTES = 512
"""First bytes that `image_format` needs: HTML is recognised by its beginning, and an SVG may have a prolog."""

MAX_PARTS = 4_096
"""Limit for segments, blocks or boxes: 20 MB of EXIF and profiles are 320 segments of JPEG."""

FORMATS = frozenset({"JPEG", "PNG", "WEBP", "GIF", "AVIF"})
"""The formats that a shard stores as received."""

KEPT_EXTENSION = "jpg"
"""For every picture stored as received, whatever its format; readers recognise the format by the first bytes.

img2dataset does the same: Hugging Face `datasets` refuses a tar whose samples differ in their extensions (datasets
issue 7055), and `webdataset` does not decode .webp, .gif or .avif."""


def image_format(head: bytes) -> str | None:
    """Return the image format that begins with these bytes, decodable here or not; None if it is not an image."""
    head = head[:SNIFF_BYTES]
    for name, magic in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF"):
        return "WEBP" if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":  # ISO media: the format follows from the brands, the major one first
        brands = head[8:12] + head[16 : int.from_bytes(head[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIF" if any(brand in brands for brand in (b"heic", b"heix", b"mif1", b"msf1")) else None
    return "SVG" if b"<svg" in head and b"<html" not in head.lower() else None


def keep_received(data: bytes, rules: ImageRules) -> Picture | Outcome:
    """Return the picture as received, or the outcome that says why it is not kept; its size is the header's, not
    rotated.
    """
    kind = image_format(data)
    if kind is None:
        return Outcome.NOT_AN_IMAGE
    if kind not in FORMATS:
        return Outcome.UNSUPPORTED_FORMAT
    if len(data) > rules.max_bytes:
        return Outcome.TOO_LARGE
    size = read_size(data, kind)
    if size is not None and size.width * size.height > rules.max_pixels:
        return Outcome.TOO_MANY_PIXELS
    if len(data) < rules.min_bytes:
        return Outcome.TOO_SMALL
    if size is None:
        return Outcome.UNDECODABLE
    if (refused := check_size(size, rules)) is not None:
        return refused
    sha256, md5, sha1 = hash_received(data, rules)
    return Picture(data, KEPT_EXTENSION, *size, *size, sha256, md5, sha1)


def check_size(size: Size, rules: ImageRules) -> Outcome | None:
    """Return the outcome for a picture size that the rules refuse; None if they accept it. Rotation makes no
    difference.
    """
    short, long = min(size), max(size)
    if short < rules.min_image_size:
        return Outcome.SIDE_TOO_SHORT
    if rules.max_aspect_ratio and long > rules.max_aspect_ratio * short:
        return Outcome.ASPECT_TOO_LARGE
    return None


def hash_received(data: bytes, rules: ImageRules) -> tuple[str, str, str | None]:
    """Return sha256, md5 and, unless the rules switch it off, sha1 of the received bytes, in hex."""
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest() if rules.sha1 else None
    return hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest(), sha1


def read_size(data: bytes, kind: str) -> Size | None:
    """Return width and height from the header of one of FORMATS; None if it has no valid size."""
    try:
        size = _READERS[kind](data)
    except (IndexError, struct.error):
        return None
    return size if size is not None and size.width > 0 and size.height > 0 else None


def _read_jpeg(data: bytes) -> Size | None:
    """Walk the segments to the frame header."""
    place = 2
    for _ in range(MAX_PARTS):
        if data[place] != 0xFF:  # garbage between segments, which libjpeg skips, too
            place = data.find(b"\xff", place)
            if place < 0:
                return None
        marker = data[place + 1]
        if marker in _JPEG_FRAMES:
            height, width = _JPEG_SIZE.unpack_from(data, place + 5)
            return Size(width, height)
        if marker in (0xD9, 0xDA):  # end of image, or a scan without a frame
            return None
        if marker == 0xFF:
            place += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # these have no length
            place += 2
        else:
            place += 2 + max(2, data[place + 2] << 8 | data[place + 3])
    return None


def _read_png(data: bytes) -> Size | None:
    return Size(*struct.unpack_from(">II", data, 16)) if data[12:16] == b"IHDR" else None


def _read_gif(data: bytes) -> Size | None:
    """Return the screen's size, enlarged by parts of the first frame outside it; None without a frame."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    is_extension = False
    for _ in range(MAX_PARTS):
        if is_extension:  # its blocks end with an empty one
            is_extension = data[place] > 0
            place += 1 + data[place]
        elif data[place] == 0x2C:  # a frame
            left, top, wide, high = struct.unpack_from("<HHHH", data, place + 1)
            return Size(max(width, left + wide), max(height, top + high))
        elif data[place] == 0x21:
            is_extension = True
            place += 2
        elif data[place] == 0x3B:
            return None
        else:
            place += 1
    return None


def _read_webp(data: bytes) -> Size | None:
    match data[12:16]:
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            width, height = struct.unpack_from("<HH", data, 26)
            return Size(width & 0x3FFF, height & 0x3FFF)  # the upper two bits are for scaling
        case b"VP8L" if data[20] == 0x2F:
            (bits,) = struct.unpack_from("<I", data, 21)
            return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8X" if len(data) >= 30:
            return Size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    return None


def _read_avif(data: bytes) -> Size | None:
    """Return the largest size in the item properties: tiles and thumbnails are smaller than their picture."""
    begin, end = 0, len(data)
    for name, skipped in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0)):
        found = next((span for found, span in _boxes(data, begin, end) if found == name), None)
        if found is None:
            return None
        begin, end = found[0] + skipped, found[1]
    sizes = [
        struct.unpack_from(">II", data, start + 4) for name, (start, _) in _boxes(data, begin, end) if name == b"ispe"
    ]
    return Size(*max(sizes, key=lambda size: size[0] * size[1])) if sizes else None


def _boxes(data: bytes, begin: int, end: int) -> list[tuple[bytes, tuple[int, int]]]:
    """Return the boxes between two positions: name, start and end of the content."""
    boxes: list[tuple[bytes, tuple[int, int]]] = []
    place = begin
    while place + 8 <= end and len(boxes) < MAX_PARTS:
        size, name = struct.unpack_from(">I4s", data, place)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, place + 8)
            head = 16
        size = size or end - place  # 0 means to the end
        if size < head or place + size > end:
            break
        boxes.append((name, (place + head, place + size)))
        place += size
    return boxes


_JPEG_SIZE = struct.Struct(">HH")

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15; the three excluded ones are tables and a reserved marker."""

_READERS: Mapping[str, Callable[[bytes], Size | None]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "GIF": _read_gif,
    "WEBP": _read_webp,
    "AVIF": _read_avif,
}

_MAGIC = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("ICO", b"\0\0\1\0"),
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("PSD", b"8BPS"),
)
