"""A picture as a shard stores it."""

from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture ready to be stored. Sizes are in pixels; the original's size is the one after its EXIF rotation.

    The hashes are of the bytes as they were received, in hex.
    """

    data: bytes
    extension: str
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str
    md5: str
    sha1: str | None = None
    """None where the image rules switch it off."""
    pdq: str | None = None
    """PDQ of the whole, upright picture in hex; None unless the rules ask for it, or if its quality is too low."""
