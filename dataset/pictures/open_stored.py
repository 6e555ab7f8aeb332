"""Decode pictures that are stored in shards or other tars. They are untrusted, so call this only in a decoder process.

A picture stored as received is shown as `prepare` would have shown it: upright, on white, in sRGB. A prepared picture
needs none of that.
"""

from PIL import Image

from dataset.pictures.codec_faults import CODEC_FAULTS
from dataset.pictures.decode import DECODABLE, opened, show, upright
from dataset.pictures.headers import image_format
from dataset.pictures.jpeg import with_end
from dataset.pictures.picture import Size
from dataset.recipe.image_rules import ImageRules

_MAX_PIXELS = ImageRules().max_pixels


def open_stored(data: bytes) -> Image.Image | None:
    """Decode a stored picture to RGB; None if it cannot be decoded, or needs too much memory."""
    kind = image_format(data)
    if kind not in DECODABLE:
        return None
    try:
        with opened(with_end(data, _MAX_PIXELS) if kind == "JPEG" else data, kind) as picture:
            shown = upright(show(picture, Size(*picture.image.size)), picture.orientation)
            shown.load()  # Pillow would read the pixels later, when the file is closed
            return shown
    except (*CODEC_FAULTS, Image.DecompressionBombWarning, MemoryError):
        return None
