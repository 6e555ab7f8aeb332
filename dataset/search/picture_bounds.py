"""Bounds on pictures of queries, checked by their headers before any codec sees them; the fetcher checks the same."""

from dataset.pictures.headers import FORMATS, image_format, read_size
from dataset.pictures.outcomes import Outcome

MAX_PIXELS = 50_000_000
"""A camera's; a decoder takes 200 MB and some seconds for them."""


def refusal(data: bytes) -> tuple[Outcome, str] | None:
    """Return why a picture is not decoded, or None."""
    kind = image_format(data)
    if kind not in FORMATS:
        return Outcome.UNSUPPORTED_FORMAT, f"the format is {kind}" if kind else "it is not a picture"
    size = read_size(data, kind)
    if size is None:
        return Outcome.UNDECODABLE, "the header has no valid size"
    if size.width * size.height > MAX_PIXELS:
        return Outcome.TOO_MANY_PIXELS, f"it has {size.width} × {size.height} pixels"
    return None
