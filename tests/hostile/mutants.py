"""Hostile pictures, made from harmless ones: the same number gives the same picture.

Mutations: flipped bits; bytes cut off, doubled or overwritten; header fields set to extremes; wrong chunk lengths (with
correct checksums); a frame header that announces missing data. There are also bombs: billions of pixels from few bytes,
a text that inflates to a gigabyte, thousands of scans, frames or segments, invalid orientations and profiles.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache

from PIL import Image, ImageCms

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

HEADER_BYTES = 64

MARKS = (b"IDAT", b"iCCP", b"eXIf", b"VP8 ", b"ICCP", b"EXIF", b"ANMF", b"meta", b"iloc", b"mdat", b"ispe", b"\xff\xe1")
"""Names of chunks, boxes and segments, beside which a length stands."""


@cache
def seeds() -> dict[str, bytes]:
    """Return whole pictures of all five formats, by name; each over 5,000 bytes, so that no rule drops it early."""
    noise = Image.effect_noise((160, 120), 80)
    image = Image.merge("RGB", (noise, noise.rotate(90), noise.rotate(180)))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    others = {"save_all": True, "append_images": [image.rotate(10 * turn) for turn in (1, 2)]}
    plans: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "jpeg": (image, "JPEG", {}),
        "jpeg-progressive": (image, "JPEG", {"progressive": True, "exif": exif, "icc_profile": profile}),
        "jpeg-cmyk": (image.convert("CMYK"), "JPEG", {"icc_profile": profile}),
        "png": (image, "PNG", {"icc_profile": profile, "exif": exif}),
        "png-palette": (image.convert("P"), "PNG", {"transparency": 3}),
        "png-alpha": (image.convert("RGBA"), "PNG", {}),
        "webp": (image, "WEBP", {"quality": 95, "exif": exif, "icc_profile": profile}),
        "webp-lossless": (image.convert("RGBA"), "WEBP", {"lossless": True}),
        "webp-animated": (image, "WEBP", others),
        "gif": (image, "GIF", {}),
        "gif-animated": (image, "GIF", others),
        "avif": (image, "AVIF", {"quality": 90, "exif": exif, "icc_profile": profile}),
        "avif-animated": (image, "AVIF", others),
    }
    return {name: _saved(*plan) for name, plan in plans.items()}


def mutants(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield hostile pictures forever, each with a name that tells how it was made; the bombs come first."""
    yield from bombs()
    draw = random.Random(seed)
    names = sorted(seeds())
    while True:
        name, change = draw.choice(names), draw.choice(CHANGES)
        yield f"{name}, {change.__name__.strip('_')}", change(draw, seeds()[name])


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield pictures that cost far more than their size suggests."""
    jpeg, png, gif = seeds()["jpeg-progressive"], seeds()["png"], seeds()["gif-animated"]
    yield "png, a gigabyte of text", _png((b"zTXt", b"k\0\0" + _deflated(1 << 30)))
    yield "png, a profile of 100 MB", _png((b"iCCP", b"p\0\0" + _deflated(100 << 20)))
    yield "png, 89 million pixels of zeros", _png(width=9_450, height=9_450, pixels=_deflated(9_450 * 28_351))
    yield "png, more pixels than allowed", _png(width=65_535, height=65_535)
    yield "png, 10,000 chunks", _png(*[(b"tEXt", b"k\0v")] * 10_000)
    yield "png, cut chunk", png[:-200]
    scan = jpeg.rindex(b"\xff\xda")
    yield "jpeg, 3,000 scans", jpeg[:scan] + jpeg[scan : scan + 16] * 3_000 + jpeg[scan:]
    yield "jpeg, 65,500 pixels square", _jpeg_sized(seeds()["jpeg"], 65_500, 65_500)
    yield "jpeg, 9,000 pixels square", _jpeg_sized(seeds()["jpeg"], 9_000, 9_000)
    yield "jpeg, 1 by 65,500", _jpeg_sized(seeds()["jpeg"], 1, 65_500)
    yield "jpeg, 300 segments of nothing", jpeg[:2] + (b"\xff\xe1" + struct.pack(">H", 60_000) + bytes(59_998)) * 300
    yield (
        "jpeg, an EXIF that bites its tail",
        _jpeg_exif(b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08"),
    )
    yield "gif, the frames twenty times", gif[:-1] + gif[gif.index(b"\x2c") : -1] * 20 + b"\x3b"
    yield "gif, a screen of 65,535 square", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    yield "webp, a canvas of 16,384 square", _webp_canvas(seeds()["webp-animated"], 16_383, 5_000)
    yield "all zeros behind a magic number", b"\xff\xd8\xff" + bytes(100_000)


def _flip_bits(draw: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 3, 30, 300))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _flip_header_bits(draw: random.Random, data: bytes) -> bytes:
    return _flip_bits(draw, data[:HEADER_BYTES]) + data[HEADER_BYTES:]


def _cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(12, len(data))]


def _cut_out(draw: random.Random, data: bytes) -> bytes:
    begin = draw.randrange(len(data))
    return data[:begin] + data[begin + draw.randrange(1, 4_000) :]


def _repeat(draw: random.Random, data: bytes) -> bytes:
    begin = draw.randrange(len(data))
    piece = data[begin : begin + draw.randrange(1, 2_000)]
    return data[:begin] + piece * draw.randrange(2, 30) + data[begin:]


def _set_extremes(draw: random.Random, data: bytes) -> bytes:
    """Overwrite numbers, mostly in the header."""
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 2, 5))):
        size = draw.choice((1, 2, 4))
        value = (draw.choice(EXTREMES) & (1 << 8 * size) - 1).to_bytes(size, draw.choice(("big", "little")))
        place = draw.randrange(4, HEADER_BYTES if draw.random() < 0.7 else len(data) - size)
        damaged[place : place + size] = value
    return bytes(damaged)


def _lie_about_lengths(draw: random.Random, data: bytes) -> bytes:
    """Change the length of a chunk, a segment or a box; a PNG gets correct checksums."""
    damaged = bytearray(data)
    marks = (
        b"IDAT",
        b"iCCP",
        b"eXIf",
        b"VP8 ",
        b"ICCP",
        b"EXIF",
        b"ANMF",
        b"meta",
        b"iloc",
        b"mdat",
        b"ispe",
        b"\xff\xe1",
    )
    places = [data.index(mark) for mark in marks if mark in data] or [20]
    place = draw.choice(places) + draw.choice((-4, 4, 2))
    damaged[place : place + 4] = struct.pack(draw.choice((">I", "<I")), draw.choice(EXTREMES))
    return _right_checksums(bytes(damaged)) if data.startswith(b"\x89PNG") else bytes(damaged)


def _splice(draw: random.Random, data: bytes) -> bytes:
    """Insert the middle of another picture."""
    other = seeds()[draw.choice(sorted(seeds()))]
    begin, end = sorted(draw.randrange(len(other)) for _ in range(2))
    place = draw.randrange(12, len(data))
    return data[:place] + other[begin:end] + data[place:]


def _damage_under_right_checksums(draw: random.Random, data: bytes) -> bytes:
    """Flip bits in data with a checksum, and correct the checksum."""
    return _right_checksums(_flip_bits(draw, data))


CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip_bits,
    _flip_header_bits,
    _cut,
    _cut_out,
    _repeat,
    _set_extremes,
    _lie_about_lengths,
    _splice,
    _damage_under_right_checksums,
)


def _saved(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _right_checksums(data: bytes) -> bytes:
    """Recompute the checksums of a PNG's chunks, as far as they can be found."""
    if not data.startswith(b"\x89PNG"):
        return data
    mended, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(mended)


def _png(*chunks: tuple[bytes, bytes], width: int = 100, height: int = 100, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = pixels or _deflated(100 * 301)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"tEXt", b"k\0" + b"v" * 5_000), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


@cache
def _deflated(size: int) -> bytes:
    """Deflate this many zeros to a thousandth of their size."""
    deflate = zlib.compressobj(1)
    pieces = [deflate.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join((*pieces, deflate.compress(bytes(size & (1 << 20) - 1)), deflate.flush()))


def _jpeg_sized(data: bytes, width: int, height: int) -> bytes:
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def _jpeg_exif(tiff: bytes) -> bytes:
    segment = b"Exif\0\0" + tiff
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + seeds()["jpeg"][2:]


def _webp_canvas(data: bytes, width: int, height: int) -> bytes:
    return data[:24] + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + data[30:]
