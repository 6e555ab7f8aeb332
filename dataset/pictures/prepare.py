"""Prepare pictures: from the bytes that a server sent to the picture that a shard stores.

Invariant: `prepare` is pure and returns a picture or an outcome for any bytes. It reads the header before it decodes,
and uses no memory for more pixels than the rules allow. It calls codecs written in C, so workers run it in separate
processes.

Checks are made in the order of their reliability: the format (from the first bytes), the number of pixels (from the
header), the number of bytes, and finally whether the picture decodes. So an error page with a picture's URL is
not_an_image, however short it is.

Source: Pillow, with pixels as browsers show them (see `decode`). A JPEG in sRGB takes a fast path (see `jpeg`); Pillow
handles everything else, and decides in doubt.

Rejected: OpenCV for everything, as in img2dataset: it ignores colour profiles and decodes CMYK wrongly.
"""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from dataset.pictures.codec_faults import CODEC_FAULTS
from dataset.pictures.colour import is_srgb
from dataset.pictures.decode import DECODABLE, TURNED, Opened, opened, show, upright, upright_pixels
from dataset.pictures.headers import check_size, hash_received, image_format, keep_received
from dataset.pictures.jpeg import Pixels, encode_jpeg, read_colour_size, shrink_jpeg, with_end
from dataset.pictures.metadata import read_jpeg_metadata
from dataset.pictures.outcomes import Outcome
from dataset.pictures.pdq import PDQ_PIXELS, pdq_of
from dataset.pictures.picture import Picture, Size
from dataset.recipe.image_rules import EncodeFormat, ImageRules, ResizeMode

_PIXEL_ALARMS = (Image.DecompressionBombError, Image.DecompressionBombWarning)

_DRAFT_GAP = 1.5
"""Pillow decodes a JPEG at no less than 1.5 times the target: 6.1 ms for a picture of 300–2,400 px, with a mean
absolute difference from a full decode of 0.3 of 255 (at 2.0: 10.2 ms, 0.1; at 1.0: 5.3 ms, 0.4)."""


def prepare(data: bytes, rules: ImageRules) -> Picture | Outcome:
    """Decode, rotate, resize and encode a received picture, or return the outcome that says why not.

    Raises: MemoryError when the process reaches its memory limit; nothing else.
    """
    if not rules.reencode:
        kept = keep_received(data, rules)
        return _with_pdq(kept) if rules.pdq and isinstance(kept, Picture) else kept
    kind = image_format(data)
    if kind is None or kind not in DECODABLE:
        return Outcome.NOT_AN_IMAGE if kind is None else Outcome.UNSUPPORTED_FORMAT
    if len(data) > rules.max_bytes:
        return Outcome.TOO_LARGE
    try:
        if kind == "JPEG" and (short := _prepare_short(data, rules)) is not None:
            return short
        with opened(with_end(data, rules.max_pixels) if kind == "JPEG" else data, kind) as picture:
            size = Size(*picture.image.size)
            if size.width * size.height > rules.max_pixels:
                return Outcome.TOO_MANY_PIXELS
            if len(data) < rules.min_bytes:
                return Outcome.TOO_SMALL
            return check_size(size, rules) or _keep(picture, data, rules)
    except _PIXEL_ALARMS:
        return Outcome.TOO_MANY_PIXELS
    except CODEC_FAULTS:
        return Outcome.TOO_SMALL if len(data) < rules.min_bytes else Outcome.UNDECODABLE


def _prepare_short(data: bytes, rules: ImageRules) -> Picture | Outcome | None:
    """Prepare a JPEG in sRGB by the fast path; None if that is impossible, so that Pillow decides."""
    shape = read_colour_size(data) if len(data) >= rules.min_bytes else None
    if shape is None or shape[0] * shape[1] > rules.max_pixels:
        return None
    size = Size(*shape)
    profile, orientation = read_jpeg_metadata(data)
    if not is_srgb(profile, "RGB", "JPEG"):
        return None
    return check_size(size, rules) or _keep_short(data, size, orientation, rules)


def _with_pdq(kept: Picture) -> Picture | Outcome:
    """Return a picture stored as received with its PDQ, for which it is decoded."""
    try:
        with opened(kept.data, image_format(kept.data) or "") as picture:
            whole = show(picture, _within(Size(*picture.image.size), PDQ_PIXELS))
            return replace(kept, pdq=pdq_of(np.asarray(upright(whole, picture.orientation))))
    except _PIXEL_ALARMS:
        return Outcome.TOO_MANY_PIXELS
    except CODEC_FAULTS:
        return Outcome.UNDECODABLE


def _within(size: Size, longest: int) -> Size:
    """Return a size scaled down until its longer side fits."""
    scale = min(1.0, longest / max(size))
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def _keep_short(data: bytes, lying: Size, orientation: int, rules: ImageRules) -> Picture | None:
    original = Size(*reversed(lying)) if orientation in TURNED else lying
    target = target_size(original.width, original.height, rules)
    is_jpeg_kept = rules.encode_format is EncodeFormat.JPG and rules.resize_mode is not ResizeMode.BORDER
    if not is_jpeg_kept or target.width * target.height > rules.max_pixels:
        return None
    pixels = shrink_jpeg(data, lying, Size(*reversed(target)) if orientation in TURNED else target)
    if pixels is None:
        return None
    whole = upright_pixels(pixels, orientation)
    cut = _cut(whole, rules)
    size = Size(cut.shape[1], cut.shape[0])
    pdq = pdq_of(whole) if rules.pdq else None
    return _picture(encode_jpeg(cut, rules.encode_quality), "jpg", size, original, data, rules, pdq)


def _keep(picture: Opened, received: bytes, rules: ImageRules) -> Picture | Outcome:
    lying = Size(*picture.image.size)
    original = Size(*reversed(lying)) if picture.orientation in TURNED else lying
    target = target_size(original.width, original.height, rules)
    if target.width * target.height > rules.max_pixels:
        return Outcome.TOO_MANY_PIXELS
    stored = Size(*reversed(target)) if picture.orientation in TURNED else target
    if picture.kind == "JPEG" and stored != lying:
        picture.image.draft(None, (int(stored.width * _DRAFT_GAP), int(stored.height * _DRAFT_GAP)))
    image = upright(show(picture, stored), picture.orientation)
    pdq = pdq_of(np.asarray(image)) if rules.pdq else None
    framed = _frame(image, rules)
    kept = _encode(framed, rules)
    return _picture(kept, str(rules.encode_format), Size(*framed.size), original, received, rules, pdq)


def _picture(
    kept: bytes,
    extension: str,
    size: Size,
    original: Size,
    received: bytes,
    rules: ImageRules,
    pdq: str | None,
) -> Picture:
    sha256, md5, sha1 = hash_received(received, rules)
    return Picture(kept, extension, *size, *original, sha256, md5, sha1, pdq)


def target_size(width: int, height: int, rules: ImageRules) -> Size:
    """Return a picture's size by the rules, before a crop or border; no side is less than one pixel."""
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


def _frame(image: Image.Image, rules: ImageRules) -> Image.Image:
    """Crop the middle square, or add a white border to make one; sides that are too short stay."""
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
    """Crop the middle square if the rules want one."""
    if rules.resize_mode is not ResizeMode.CENTER_CROP:
        return pixels
    top, left = (max(0, (side - rules.size) // 2) for side in pixels.shape[:2])
    return pixels[top : top + rules.size, left : left + rules.size]


def _encode(image: Image.Image, rules: ImageRules) -> bytes:
    """Encode only the pixels, without profile, EXIF or comment."""
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
