"""Pictures: from the bytes that a server sent to the picture that a shard keeps.

Invariant: `prepare` is pure and gives a picture or an outcome for any bytes, never an exception; it looks at the header
before it decodes, and spends no memory on pixels beyond the rules.

The order of the checks is the order in which they can be trusted: what it is (its first bytes), how many pixels it
claims (its header), how many bytes it has, and only then whether it decodes. So an error page under a picture's name
is not an image however short it is.

Source: Pillow. Upright by EXIF, composed on white, colours to sRGB by the embedded profile. The usual JPEG, RGB without
a profile of its own, goes a way twice as short (see jpeg); Pillow takes what that way does not, and decides in doubt.

Rejected: OpenCV for everything, as img2dataset uses it: it ignores colour profiles and reads CMYK wrongly.
"""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, features

from dataset.image_rules import EncodeFormat, ImageRules, ResizeMode
from dataset.jpeg import Pixels, encode_jpeg, read_plain_size, shrink_jpeg
from dataset.outcomes import Outcome
from dataset.pdq import PDQ_PIXELS, pdq_of

SNIFF_BYTES = 512
"""As many first bytes as `image_format` needs; HTML is told from its beginning, an SVG may have a prolog."""

_CODEC_FAULTS = (
    OSError,  # also what Pillow calls truncated, and UnidentifiedImageError
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    ImageCms.PyCMSError,
    Warning,  # where the interpreter was told to make errors of them
)
"""What Pillow's codecs were seen to raise on damaged files. All of them mean: this picture cannot be had."""

_PIXEL_ALARMS = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")

_DRAFT_GAP = 1.5
"""Decode a JPEG at no less than 1.5 times the wanted size: 6.1 ms a picture of 300–2,400 px against 10.2 at twice the
size and 5.3 at once, mean absolute difference to a full decode 0.3 of 255, against 0.1 and 0.4."""

_REDUCING_GAP = 2.0
"""Let Pillow shrink other formats by whole factors first, as its `thumbnail` does."""

_DECODABLE: Mapping[str, str] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"} | (
    {"AVIF": "avif"} if features.check("avif") else {}
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a shard keeps it; sizes in pixels, the original's as it looks upright."""

    data: bytes
    extension: str
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str
    """Of the bytes as they were received."""
    md5: str | None = None
    """Of the same; None unless the rules ask for it."""
    pdq: str | None = None
    """PDQ of the picture upright and whole, in hex; None unless the rules ask for it, or where it tells too little."""


class _Size(NamedTuple):
    width: int
    height: int


def image_format(head: bytes) -> str | None:
    """Name the image format of which these are the first bytes, decodable here or not; None for anything else."""
    head = head[:SNIFF_BYTES]
    for name, magic in _MAGIC:
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF"):
        return "WEBP" if head[8:12] == b"WEBP" else None
    if head[4:8] == b"ftyp":  # ISO media: the brands tell, the major one first
        brands = head[8:12] + head[16 : int.from_bytes(head[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIF" if any(brand in brands for brand in (b"heic", b"heix", b"mif1", b"msf1")) else None
    return "SVG" if b"<svg" in head and b"<html" not in head.lower() else None


def prepare(data: bytes, rules: ImageRules) -> Picture | Outcome:
    """Decode, set upright, resize and encode a received picture, or say why not. Never raises."""
    kind = image_format(data)
    if kind is None:
        return Outcome.NOT_AN_IMAGE
    if kind not in _DECODABLE:
        return Outcome.UNSUPPORTED_FORMAT
    if len(data) > rules.max_bytes:
        return Outcome.TOO_LARGE
    try:
        kept = _prepare_plain(data, rules) if kind == "JPEG" else None
        if kept is not None:
            return kept
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if image.width * image.height > rules.max_pixels:
                return Outcome.TOO_MANY_PIXELS
            if len(data) < rules.min_bytes:
                return Outcome.TOO_SMALL
            if (unfit := _unfit(_Size(*image.size), rules)) is not None:
                return unfit
            return _keep(image, data, rules) if rules.reencode else _keep_received(image, data, rules)
    except _PIXEL_ALARMS:
        return Outcome.TOO_MANY_PIXELS
    except _CODEC_FAULTS:
        return Outcome.TOO_SMALL if len(data) < rules.min_bytes else Outcome.UNDECODABLE


def _prepare_plain(data: bytes, rules: ImageRules) -> Picture | Outcome | None:
    """Prepare the usual JPEG, whose header says it all; None for any other, and where Pillow is to decide."""
    plain = read_plain_size(data)
    if plain is None or plain[0] * plain[1] > rules.max_pixels or len(data) < rules.min_bytes:
        return None
    size = _Size(*plain)
    unfit = _unfit(size, rules)
    if unfit is not None:
        return unfit
    return _keep_short(data, size, 1, rules) if rules.reencode else _keep_plain(data, size, rules)


def _unfit(size: _Size, rules: ImageRules) -> Outcome | None:
    """Hold a picture's size, whichever way up, against the rules; None when it fits."""
    short, long = min(size), max(size)
    if short < rules.min_image_size:
        return Outcome.SIDE_TOO_SHORT
    if rules.max_aspect_ratio and long > rules.max_aspect_ratio * short:
        return Outcome.ASPECT_TOO_LARGE
    return None


def _keep_short(data: bytes, lying: _Size, orientation: int, rules: ImageRules) -> Picture | None:
    """Keep a JPEG in sRGB the short way; None when it cannot be gone, and Pillow is to say what becomes of it."""
    original = _Size(*reversed(lying)) if orientation in _TURNED else lying
    target = target_size(original.width, original.height, rules)
    is_jpeg_kept = rules.encode_format is EncodeFormat.JPG and rules.resize_mode is not ResizeMode.BORDER
    if not is_jpeg_kept or target.width * target.height > rules.max_pixels:
        return None
    pixels = shrink_jpeg(data, lying, _Size(*reversed(target)) if orientation in _TURNED else target)
    if pixels is None:
        return None
    whole = _UPRIGHT_PIXELS[orientation](pixels) if orientation in _UPRIGHT else pixels
    upright = _cut(whole, rules)
    size = _Size(upright.shape[1], upright.shape[0])
    pdq = pdq_of(whole) if rules.pdq else None
    return _picture(encode_jpeg(upright, rules.encode_quality), "jpg", size, original, data, rules, pdq)


def _keep_plain(data: bytes, size: _Size, rules: ImageRules) -> Picture | None:
    """Keep a plain JPEG as received; it is decoded only where PDQ is asked for."""
    if not rules.pdq:
        return _picture(data, "jpg", size, size, data, rules)
    pixels = shrink_jpeg(data, size, _Size(*_within(size, PDQ_PIXELS)))
    return None if pixels is None else _picture(data, "jpg", size, size, data, rules, pdq_of(pixels))


def _keep_received(image: Image.Image, data: bytes, rules: ImageRules) -> Picture:
    """Keep the bytes as they are; what the header says of them is all that is known, unless PDQ is asked for."""
    assert image.format is not None
    kind, size = _DECODABLE[image.format], _Size(*image.size)
    pdq = None
    if rules.pdq:
        profile, orientation = image.info.get("icc_profile"), _orientation(image)
        whole = _to_srgb(_resize(_on_white(image), _within(size, PDQ_PIXELS)), profile)
        pdq = pdq_of(np.asarray(whole.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else whole))
    return _picture(data, kind, size, size, data, rules, pdq)


def _within(size: _Size, longest: int) -> _Size:
    """Shrink a size until its longer side fits."""
    scale = min(1.0, longest / max(size))
    return _Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def _keep(image: Image.Image, data: bytes, rules: ImageRules) -> Picture | Outcome:
    orientation = _orientation(image)
    turned = orientation in _TURNED
    original = _Size(*reversed(image.size)) if turned else _Size(*image.size)
    target = target_size(original.width, original.height, rules)
    if target.width * target.height > rules.max_pixels:
        return Outcome.TOO_MANY_PIXELS
    lying = _Size(*reversed(target)) if turned else target
    profile = image.info.get("icc_profile")
    if image.format == "JPEG" and image.mode == "RGB" and _is_srgb(profile):
        short = _keep_short(data, _Size(*image.size), orientation, rules)
        if short is not None:
            return short
    if image.format == "JPEG" and lying != image.size:
        image.draft(None, (int(lying.width * _DRAFT_GAP), int(lying.height * _DRAFT_GAP)))
    picture = _to_srgb(_resize(_on_white(image), lying), profile)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    pdq = pdq_of(np.asarray(picture)) if rules.pdq else None
    picture = _frame(picture, rules)
    kept = _encode(picture, rules)
    return _picture(kept, str(rules.encode_format), _Size(*picture.size), original, data, rules, pdq)


def _picture(
    kept: bytes,
    extension: str,
    size: _Size,
    original: _Size,
    received: bytes,
    rules: ImageRules,
    pdq: str | None = None,
) -> Picture:
    sha256 = hashlib.sha256(received).hexdigest()
    md5 = hashlib.md5(received, usedforsecurity=False).hexdigest() if rules.md5 else None
    return Picture(kept, extension, size.width, size.height, original.width, original.height, sha256, md5, pdq)


def _is_srgb(profile: object) -> bool:
    """Say whether the colours of an RGB picture can stay as they are; a damaged profile is no profile."""
    try:
        return not profile or (isinstance(profile, bytes) and _transform(profile, "RGB") is None)
    except _CODEC_FAULTS:
        return True


def target_size(width: int, height: int, rules: ImageRules) -> _Size:
    """Scale a picture's size by the rules, before a crop or a border; no side falls under one pixel."""
    match rules.resize_mode:
        case ResizeMode.NO:
            return _Size(width, height)
        case ResizeMode.KEEP_RATIO | ResizeMode.CENTER_CROP:
            side = min(width, height)
        case ResizeMode.KEEP_RATIO_LARGEST | ResizeMode.BORDER:
            side = max(width, height)
    if rules.only_if_bigger and side <= rules.size:
        return _Size(width, height)
    return _Size(max(1, round(width * rules.size / side)), max(1, round(height * rules.size / side)))


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1, upright, when there is none or it is damaged."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _CODEC_FAULTS:
        return 1
    return found if isinstance(found, int) else 1


def _on_white(image: Image.Image) -> Image.Image:
    """Bring any mode to RGB or CMYK, 8 bits a channel, what is transparent on white."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits of grey; Pillow's own conversion clips them
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGB", layer.size, "white")
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return image if image.mode in ("RGB", "CMYK") else image.convert("RGB")


def _resize(image: Image.Image, target: _Size) -> Image.Image:
    if image.size == target:
        return image
    return image.resize(target, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Apply the embedded profile; one that is damaged or not of this mode is no reason to lose the picture."""
    if isinstance(profile, bytes) and profile:
        try:
            transform = _transform(profile, image.mode)
            if transform is not None:
                return ImageCms.applyTransform(image, transform) or image
        except _CODEC_FAULTS:
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)  # a few makers' profiles cover nearly all pictures; one for CMYK has half a megabyte
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the way from a profile to sRGB; None when it is sRGB already."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "sRGB" in (source.profile.profile_description or ""):
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def _frame(image: Image.Image, rules: ImageRules) -> Image.Image:
    """Cut out the middle square, or add white to one; a side that is short already stays."""
    size = rules.size
    match rules.resize_mode:
        case ResizeMode.CENTER_CROP:
            left, top = max(0, (image.width - size) // 2), max(0, (image.height - size) // 2)
            return image.crop((left, top, left + min(size, image.width), top + min(size, image.height)))
        case ResizeMode.BORDER:
            ground = Image.new("RGB", (max(size, image.width), max(size, image.height)), "white")
            ground.paste(image, ((ground.width - image.width) // 2, (ground.height - image.height) // 2))
            return ground
        case ResizeMode.NO | ResizeMode.KEEP_RATIO | ResizeMode.KEEP_RATIO_LARGEST:
            return image


def _cut(pixels: Pixels, rules: ImageRules) -> Pixels:
    """Cut out the middle square where the rules want one."""
    if rules.resize_mode is not ResizeMode.CENTER_CROP:
        return pixels
    top, left = (max(0, (side - rules.size) // 2) for side in pixels.shape[:2])
    return pixels[top : top + rules.size, left : left + rules.size]


def _encode(image: Image.Image, rules: ImageRules) -> bytes:
    """Write the pixels alone: no profile, no EXIF, no comment goes along."""
    image.info = {}
    out = io.BytesIO()
    match rules.encode_format:
        case EncodeFormat.JPG:
            image.save(out, "JPEG", quality=rules.encode_quality)
        case EncodeFormat.WEBP:
            image.save(out, "WEBP", quality=rules.encode_quality)
        case EncodeFormat.PNG:
            image.save(out, "PNG")
    return out.getvalue()


_UPRIGHT = {  # EXIF 2.3, table 6: what turns each orientation into the first one
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_UPRIGHT_PIXELS: Mapping[int, Callable[[Pixels], Pixels]] = {  # the same for an array
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}

_TURNED = frozenset({5, 6, 7, 8})
"""Orientations that exchange width and height."""

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
