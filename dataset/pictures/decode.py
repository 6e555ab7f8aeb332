"""Decode a picture as browsers show it: opaque on white, in sRGB, upright.

Invariant: codecs get a file without its metadata (see `metadata`), so damaged metadata never costs a picture, and no
tag makes Pillow change the pixels.

Transparent pixels are blended with white in sRGB, after the profile was applied. Source: the PNG specification (section
13.16: the colour key is compared with samples at the file's own depth), GIF89a section 20 (a frame may be smaller than
its screen; the rest is transparent).

Rejected: `Image.convert("RGBA")` for a colour key: for greys of 2, 4 or 16 bits and RGB of 16 it compares the key with
samples scaled to 8 bits.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFile, features

from dataset.pictures.colour import to_srgb
from dataset.pictures.headers import FORMATS
from dataset.pictures.jpeg import Pixels
from dataset.pictures.metadata import Bare, read_orientation, separate
from dataset.pictures.picture import Size

DECODABLE = FORMATS - (frozenset() if features.check("avif") else {"AVIF"})
"""The formats for which this installation has codecs."""

_REDUCING_GAP = 2.0
"""Lets Pillow shrink by whole factors first, as its `thumbnail` does."""

_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True, slots=True)
class Opened:
    """A picture whose header has been read."""

    image: ImageFile.ImageFile
    kind: str
    bare: Bare

    @property
    def orientation(self) -> int:
        """Return the EXIF orientation, 1 to 8."""
        return self.bare.orientation


@contextmanager
def opened(data: bytes, kind: str) -> Iterator[Opened]:
    """Open a picture in the format that `image_format` returned.

    Raises: whatever Pillow raises.
    """
    bare = separate(data, kind)
    with Image.open(io.BytesIO(bare.data), formats=[kind]) as image:
        if kind == "AVIF":  # Pillow reports the container's rotation (irot, imir) as EXIF
            bare = Bare(data, image.info.get("icc_profile"), read_orientation(image.info.get("exif") or b""))
        yield Opened(image, kind, bare)


def show(picture: Opened, size: Size) -> Image.Image:
    """Decode to RGB at `size`, not yet rotated.

    Raises: whatever Pillow raises.
    """
    tiles = picture.image.tile
    colours, alpha = _split(picture.image, picture.bare)
    frame = tiles[0].extents if picture.kind == "GIF" and tiles else None
    if alpha is None and frame is not None and frame != (0, 0, *colours.size):
        alpha = Image.new("L", colours.size, 0)
        alpha.paste(255, frame)
    if alpha is None or alpha.getextrema()[0] == 255:
        return to_srgb(_resize(colours, size), picture.bare.profile, picture.kind)
    whole = to_srgb(colours, picture.bare.profile, picture.kind)
    whole.paste((255, 255, 255), mask=ImageChops.invert(alpha))
    return _resize(whole, size)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return a picture rotated by its EXIF orientation."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def upright_pixels(pixels: Pixels, orientation: int) -> Pixels:
    """Return (H, W, 3) pixels rotated by their EXIF orientation."""
    return _UPRIGHT_PIXELS[orientation](pixels) if orientation in _UPRIGHT_PIXELS else pixels


def _split(image: Image.Image, bare: Bare) -> tuple[Image.Image, Image.Image | None]:
    """Decode to colours (L, RGB or CMYK) and the alpha channel (L); None instead of alpha if the picture is opaque."""
    if image.mode in ("1", "L", "RGB", *_GREY16) and "transparency" not in image.info:
        alpha = _keyed(image, bare) if bare.colour_key else None
        return (image if image.mode == "RGB" else _grey(image)), alpha
    if image.mode == "CMYK":
        return image, None
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode in ("RGBA", "PA") or "transparency" in image.info:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        return layer.convert("RGB"), layer.getchannel("A")
    return image.convert("RGB"), None


def _grey(image: Image.Image) -> Image.Image:
    """Convert greys to 8 bits; Pillow's own conversion clips those of 16 bits at 255."""
    if image.mode in _GREY16:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "L" else image.convert("L")


def _keyed(image: Image.Image, bare: Bare) -> Image.Image | None:
    """Return the alpha channel of a PNG with a colour key; None if the key does not fit its channels."""
    key = np.array(bare.colour_key, np.int64) & (1 << bare.depth) - 1
    if len(key) != len(image.getbands()):
        return None
    samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    if bare.depth < 8:
        key = key * 255 // ((1 << bare.depth) - 1)
    elif bare.depth == 16 and image.mode == "RGB":  # Pillow keeps only the high bytes
        key = key >> 8
    matches = samples == key
    return Image.fromarray(np.where(matches.all(axis=-1) if matches.ndim == 3 else matches, 0, 255).astype(np.uint8))


def _resize(image: Image.Image, target: Size) -> Image.Image:
    if image.size == target:
        return image
    return image.resize(target, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP)


_UPRIGHT = {  # EXIF 2.3, table 6: the operation that makes each orientation upright
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

TURNED = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height."""
