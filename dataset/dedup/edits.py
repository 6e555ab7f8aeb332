"""Edits that copies of pictures have on the web, and changes after which a picture is another one.

Each takes an RGB picture and a different one, and returns the changed picture. Nothing is random, so that a measurement
can be repeated. Source: the edits of copydays and of the image hashing literature; the negatives are those that
embeddings confuse: the same frame with another content, and the same shape in another colour.
"""

import io
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Edit = Callable[[Image.Image, Image.Image], Image.Image]


def _encoded(own: Image.Image, _other: Image.Image, *, form: str, qualities: tuple[int, ...]) -> Image.Image:
    for quality in qualities:
        file = io.BytesIO()
        own.save(file, form, quality=quality)
        own = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
    return own


def _scaled(own: Image.Image, _other: Image.Image, *, wide: float, high: float) -> Image.Image:
    return own.resize((max(1, round(own.width * wide)), max(1, round(own.height * high))), Image.Resampling.BICUBIC)


def _cropped(own: Image.Image, _other: Image.Image, *, share: float) -> Image.Image:
    """Cut off a share of each side's length, half of it at each end."""
    left, top = round(own.width * share / 2), round(own.height * share / 2)
    return own.crop((left, top, max(left + 1, own.width - left), max(top + 1, own.height - top)))


def _bordered(own: Image.Image, _other: Image.Image, *, share: float) -> Image.Image:
    return ImageOps.expand(own, round(min(own.size) * share), "white")


def _watermark(own: Image.Image, _other: Image.Image) -> Image.Image:
    layer = Image.new("L", own.size, 0)
    draw = ImageDraw.Draw(layer)
    size = max(8, own.width // 9)
    for row in range(0, own.height, max(1, own.height // 3)):
        draw.text((row % 17, row), "SAMPLE PICTURE  SAMPLE", fill=120, font_size=size)
    return Image.composite(Image.new("RGB", own.size, "white"), own, layer)


def _text_band(own: Image.Image, _other: Image.Image, *, above: bool) -> Image.Image:
    """Add a band of 18 % of the height with a line of text."""
    band = max(10, round(own.height * 0.18))
    made = Image.new("RGB", (own.width, own.height + band), "white")
    made.paste(own, (0, band if above else 0))
    place = (band // 4, band // 5 if above else own.height + band // 5)
    ImageDraw.Draw(made).text(place, "When you see it: share this", fill="black", font_size=max(8, band // 2))
    return made


def _logo(own: Image.Image, _other: Image.Image) -> Image.Image:
    made, side = own.copy(), max(6, min(own.size) // 6)
    corner = (own.width - side - 3, own.height - side - 3, own.width - 3, own.height - 3)
    ImageDraw.Draw(made).ellipse(corner, fill=(220, 40, 60), outline="white", width=2)
    return made


def _collage(own: Image.Image, other: Image.Image) -> Image.Image:
    made = Image.new("RGB", (2 * own.width, own.height))
    made.paste(own, (0, 0))
    made.paste(other.resize(own.size), (own.width, 0))
    return made


def _screenshot(own: Image.Image, _other: Image.Image) -> Image.Image:
    bar, margin = max(8, own.height // 8), max(4, own.width // 12)
    made = Image.new("RGB", (own.width + 2 * margin, own.height + 3 * bar), (242, 242, 247))
    draw = ImageDraw.Draw(made)
    draw.rectangle((0, 0, made.width, bar), fill=(30, 60, 120))
    draw.text((margin, bar // 5), "12:41   Photos", fill="white", font_size=max(7, bar // 2))
    made.paste(own, (margin, 3 * bar // 2))
    return made


def _colour_cast(own: Image.Image, _other: Image.Image) -> Image.Image:
    pixels = np.asarray(own, np.float32) * np.array([1.15, 1.0, 0.8], np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _gamma(own: Image.Image, _other: Image.Image, *, gamma: float) -> Image.Image:
    table = [round(255 * (level / 255) ** gamma) for level in range(256)]
    return own.point(table * 3)


def _brighter(own: Image.Image, _other: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(own).enhance(1.3)


def _grey(own: Image.Image, _other: Image.Image) -> Image.Image:
    return ImageOps.grayscale(own).convert("RGB")


def _blur(own: Image.Image, _other: Image.Image) -> Image.Image:
    return own.filter(ImageFilter.GaussianBlur(2))


def _sharpen(own: Image.Image, _other: Image.Image) -> Image.Image:
    return own.filter(ImageFilter.UnsharpMask(2, 150))


def _turned(own: Image.Image, _other: Image.Image, *, degrees: float) -> Image.Image:
    return own.rotate(degrees, Image.Resampling.BICUBIC, expand=degrees % 90 == 0)


def _mirrored(own: Image.Image, _other: Image.Image) -> Image.Image:
    return ImageOps.mirror(own)


def _unchanged(own: Image.Image, _other: Image.Image) -> Image.Image:
    return own


def _both(first: Edit, second: Edit, own: Image.Image, other: Image.Image) -> Image.Image:
    return second(first(own, other), other)


EDITS: Mapping[str, Edit] = {
    "unchanged": _unchanged,
    "JPEG 75": partial(_encoded, form="JPEG", qualities=(75,)),
    "JPEG 30": partial(_encoded, form="JPEG", qualities=(30,)),
    "JPEG 10": partial(_encoded, form="JPEG", qualities=(10,)),
    "JPEG twice": partial(_encoded, form="JPEG", qualities=(60, 40)),
    "WebP 50": partial(_encoded, form="WEBP", qualities=(50,)),
    "half size": partial(_scaled, wide=0.5, high=0.5),
    "eighth size": partial(_scaled, wide=0.125, high=0.125),
    "aspect 1.3": partial(_scaled, wide=1.3, high=1.0),
    "crop 5 %": partial(_cropped, share=0.05),
    "crop 10 %": partial(_cropped, share=0.1),
    "crop 20 %": partial(_cropped, share=0.2),
    "crop 40 %": partial(_cropped, share=0.4),
    "border 5 %": partial(_bordered, share=0.05),
    "border 15 %": partial(_bordered, share=0.15),
    "watermark across": _watermark,
    "text band below": partial(_text_band, above=False),
    "caption bar above": partial(_text_band, above=True),
    "logo in a corner": _logo,
    "collage 2 x 1": _collage,
    "screenshot frame": _screenshot,
    "brighter 1.3": _brighter,
    "gamma 0.6": partial(_gamma, gamma=0.6),
    "grey": _grey,
    "colour cast": _colour_cast,
    "blur 2": _blur,
    "sharpen": _sharpen,
    "rotation 2": partial(_turned, degrees=2),
    "rotation 90": partial(_turned, degrees=90),
    "rotation 180": partial(_turned, degrees=180),
    "mirrored": _mirrored,
    "grey, crop 10 %": partial(_both, _grey, partial(_cropped, share=0.1)),
    "half size, JPEG 30": partial(
        _both, partial(_scaled, wide=0.5, high=0.5), partial(_encoded, form="JPEG", qualities=(30,))
    ),
}  # fmt: skip
"""Copies of the picture: a search should find them."""


def _framed(own: Image.Image, other: Image.Image, *, area: float) -> Image.Image:
    """Replace the middle, a share of the area, by another picture: a template with another content."""
    side = area**0.5
    inner = other.resize((max(1, round(own.width * side)), max(1, round(own.height * side))))
    made = own.copy()
    made.paste(inner, ((own.width - inner.width) // 2, (own.height - inner.height) // 2))
    return made


def _other_colour(own: Image.Image, _other: Image.Image) -> Image.Image:
    hue, saturation, value = own.convert("HSV").split()
    return Image.merge("HSV", (hue.point([(level + 85) % 256 for level in range(256)]), saturation, value)).convert(
        "RGB"
    )


def _next_frame(own: Image.Image, _other: Image.Image) -> Image.Image:
    """Move the camera: the picture is enlarged by 6 % and shifted by 4 %."""
    wide, high = round(own.width * 1.06), round(own.height * 1.06)
    moved = own.resize((wide, high), Image.Resampling.BICUBIC)
    left = min(wide - own.width, round(own.width * 0.04))
    return moved.crop((left, 0, left + own.width, own.height))


NEGATIVES: Mapping[str, Edit] = {
    "template, 4 % other": partial(_framed, area=0.04),
    "template, 25 % other": partial(_framed, area=0.25),
    "other colour": _other_colour,
    "next frame": _next_frame,
}
"""Other pictures that are close: they should be kept, and are reported as what a threshold removes wrongly."""
