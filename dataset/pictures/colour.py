"""Convert colours to sRGB by an embedded ICC profile, as browsers do.

Invariant: a profile that is damaged, describes no device, or does not fit the picture's colour space has no effect.

Source: ICC.1 section 7.2 (the header). Which profiles apply to which pictures follows Chromium's and Firefox's
decoders: a grey JPEG may have an RGB profile, while libpng allows only grey profiles for a grey PNG. Little CMS does
the conversion.

Rejected: recognising sRGB by the profile's description: "sRGB-elle-V4-g10" is linear.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_DEVICES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
"""Profile classes that describe a device's colours; links, abstract profiles and named colours do not."""

_NEAR = 2
"""Levels of 255 by which a profile that equals sRGB except for rounding was seen to differ."""


def to_srgb(image: Image.Image, profile: bytes | None, kind: str) -> Image.Image:
    """Convert an opaque L, RGB or CMYK picture from a file of format `kind` to RGB in sRGB."""
    mode = _profiled_mode(profile, image.mode, kind)
    transform = _transform(profile, mode) if profile and mode else None
    if transform is not None:
        source = image if image.mode == mode else image.convert(mode)
        return ImageCms.applyTransform(source, transform) or source
    return image if image.mode == "RGB" else image.convert("RGB")


def is_srgb(profile: bytes | None, mode: str, kind: str) -> bool:
    """Return whether the profile leaves a picture's colours as they are."""
    profiled = _profiled_mode(profile, mode, kind)
    return not profile or profiled is None or _transform(profile, profiled) is None


def _profiled_mode(profile: bytes | None, mode: str, kind: str) -> str | None:
    """Return the mode in which the profile applies to such a picture; None if it does not."""
    if not profile or profile[12:16] not in _DEVICES:
        return None
    match profile[16:20], mode:
        case (b"RGB ", "RGB") | (b"CMYK", "CMYK"):
            return mode
        case b"GRAY", "L":
            return mode
        case b"RGB ", "L" if kind == "JPEG":
            return "RGB"
    return None


@lru_cache(maxsize=16)  # a few profiles cover nearly all pictures; one for CMYK has half a megabyte
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from a profile to sRGB; None if it would change nothing or cannot be built."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        colours = _sampled(mode)
        converted = ImageCms.applyTransform(colours, transform)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None
    changed = np.asarray(converted, np.int16) - np.asarray(colours.convert("RGB"), np.int16)
    return None if mode != "CMYK" and np.abs(changed).max() <= _NEAR else transform


def _sampled(mode: str) -> Image.Image:
    """Return a picture with colours from all parts of a mode's range."""
    if mode == "RGB":
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        return Image.fromarray(cube)
    return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode)
