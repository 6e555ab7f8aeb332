"""Pictures: from the bytes that a server sent to the picture that a shard keeps.

Invariant: `prepare` is pure and gives a picture or an outcome for any bytes; it looks at the header before it decodes,
and spends no memory on pixels beyond the rules. The codecs below it are C: a worker calls it in processes of their own.

The order of the checks is the order in which they can be trusted: what it is (its first bytes), how many pixels it
claims (its header), how many bytes it has, and only then whether it decodes. So an error page under a picture's name
is not an image however short it is.

Source: Pillow. Upright by EXIF, composed on white, colours to sRGB by the embedded profile. The usual JPEG, RGB without
a profile of its own, goes a way twice as short (see jpeg); Pillow takes what that way does not, and decides in doubt.

Rejected: OpenCV for everything, as img2dataset uses it: it ignores colour profiles and reads CMYK wrongly.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image, ImageCms, features

from dataset.pictures.headers import EXTENSIONS, Picture, Size, hashed, image_format, keep_received, unfit
from dataset.pictures.jpeg import Pixels, encode_jpeg, read_plain_size, shrink_jpeg
from dataset.pictures.outcomes import Outcome
from dataset.pictures.pdq import PDQ_PIXELS, pdq_of
from dataset.recipe.image_rules import EncodeFormat, ImageRules, ResizeMode

_CODEC_FAULTS = (
    OSError,  # also what Pillow calls truncated, and UnidentifiedImageError
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
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

_DECODABLE = frozenset(EXTENSIONS) - (frozenset() if features.check("avif") else {"AVIF"})


def prepare(data: bytes, rules: ImageRules) -> Picture | Outcome:
    """Decode, set upright, resize and encode a received picture, or say why not.

    Raises: MemoryError when the process may hold no more; nothing else.
    """
    if not rules.reencode:
        kept = keep_received(data, rules)
        return _with_pdq(kept) if rules.pdq and isinstance(kept, Picture) else kept
    kind = image_format(data)
    if kind is None or kind not in _DECODABLE:
        return Outcome.NOT_AN_IMAGE if kind is None else Outcome.UNSUPPORTED_FORMAT
    if len(data) > rules.max_bytes:
        return Outcome.TOO_LARGE
    try:
        if kind == "JPEG" and (plain := _prepare_plain(data, rules)) is not None:
            return plain
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if image.width * image.height > rules.max_pixels:
                return Outcome.TOO_MANY_PIXELS
            if len(data) < rules.min_bytes:
                return Outcome.TOO_SMALL
            if (ill := unfit(Size(*image.size), rules)) is not None:
                return ill
            return _keep(image, data, rules)
    except _PIXEL_ALARMS:
        return Outcome.TOO_MANY_PIXELS
    except _CODEC_FAULTS:
        return Outcome.TOO_SMALL if len(data) < rules.min_bytes else Outcome.UNDECODABLE


def _prepare_plain(data: bytes, rules: ImageRules) -> Picture | Outcome | None:
    """Prepare a JPEG without EXIF and profile the short way; None when it cannot be gone, as for `_keep_short`."""
    plain = read_plain_size(data) if len(data) >= rules.min_bytes else None
    if plain is None or plain[0] * plain[1] > rules.max_pixels:
        return None
    size = Size(*plain)
    return unfit(size, rules) or _keep_short(data, size, 1, rules)


def _with_pdq(kept: Picture) -> Picture | Outcome:
    """Decode a picture that is kept as received, for its PDQ alone."""
    try:
        with Image.open(io.BytesIO(kept.data), formats=sorted(_DECODABLE)) as image:
            profile, orientation = image.info.get("icc_profile"), _orientation(image)
            whole = _to_srgb(_resize(_on_white(image), _within(Size(*image.size), PDQ_PIXELS)), profile)
            upright = whole.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else whole
            return replace(kept, pdq=pdq_of(np.asarray(upright)))
    except _PIXEL_ALARMS:
        return Outcome.TOO_MANY_PIXELS
    except _CODEC_FAULTS:
        return Outcome.UNDECODABLE


def _within(size: Size, longest: int) -> Size:
    """Shrink a size until its longer side fits."""
    scale = min(1.0, longest / max(size))
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def _keep_short(data: bytes, lying: Size, orientation: int, rules: ImageRules) -> Picture | None:
    """Keep a JPEG in sRGB the short way; None when it cannot be gone, and Pillow is to say what becomes of it."""
    original = Size(*reversed(lying)) if orientation in _TURNED else lying
    target = target_size(original.width, original.height, rules)
    is_jpeg_kept = rules.encode_format is EncodeFormat.JPG and rules.resize_mode is not ResizeMode.BORDER
    if not is_jpeg_kept or target.width * target.height > rules.max_pixels:
        return None
    pixels = shrink_jpeg(data, lying, Size(*reversed(target)) if orientation in _TURNED else target)
    if pixels is None:
        return None
    whole = _UPRIGHT_PIXELS[orientation](pixels) if orientation in _UPRIGHT else pixels
    upright = _cut(whole, rules)
    size = Size(upright.shape[1], upright.shape[0])
    pdq = pdq_of(whole) if rules.pdq else None
    return _picture(encode_jpeg(upright, rules.encode_quality), "jpg", size, original, data, rules, pdq)


def _keep(image: Image.Image, data: bytes, rules: ImageRules) -> Picture | Outcome:
    orientation = _orientation(image)
    turned = orientation in _TURNED
    original = Size(*reversed(image.size)) if turned else Size(*image.size)
    target = target_size(original.width, original.height, rules)
    if target.width * target.height > rules.max_pixels:
        return Outcome.TOO_MANY_PIXELS
    lying = Size(*reversed(target)) if turned else target
    profile = image.info.get("icc_profile")
    if image.format == "JPEG" and image.mode == "RGB" and _is_srgb(profile):
        short = _keep_short(data, Size(*image.size), orientation, rules)
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
    return _picture(kept, str(rules.encode_format), Size(*picture.size), original, data, rules, pdq)


def _picture(
    kept: bytes,
    extension: str,
    size: Size,
    original: Size,
    received: bytes,
    rules: ImageRules,
    pdq: str | None,
) -> Picture:
    sha256, md5, sha1 = hashed(received, rules)
    return Picture(kept, extension, *size, *original, sha256, md5, sha1, pdq)


def _is_srgb(profile: object) -> bool:
    """Say whether the colours of an RGB picture can stay as they are; a damaged profile is no profile."""
    try:
        return not profile or (isinstance(profile, bytes) and _transform(profile, "RGB") is None)
    except _CODEC_FAULTS:
        return True


def target_size(width: int, height: int, rules: ImageRules) -> Size:
    """Scale a picture's size by the rules, before a crop or a border; no side falls under one pixel."""
    match rules.resize_mode:
        case ResizeMode.NO:
            return Size(width, height)
        case ResizeMode.KEEP_RATIO | ResizeMode.CENTER_CROP:
            side = min(width, height)
        case ResizeMode.KEEP_RATIO_LARGEST | ResizeMode.BORDER:
            side = max(width, height)
    if rules.only_if_bigger and side <= rules.size:
        return Size(width, height)
    return Size(max(1, round(width * rules.size / side)), max(1, round(height * rules.size / side)))


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


def _resize(image: Image.Image, target: Size) -> Image.Image:
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
