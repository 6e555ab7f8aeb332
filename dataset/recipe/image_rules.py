"""The image rules of a recipe: which pictures are accepted, and how they are stored.

Invariant: an `ImageRules` object is always valid, and `from_json(to_json())` returns an equal one.

Source: names and meaning of the resize modes are img2dataset's. The default is LAION's: keep_ratio to 256 on the
shorter side, never enlarged. A model that needs another size resizes pictures itself.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Self

from dataset.errors import DatasetError


class ImageRulesError(DatasetError):
    """The recipe's image rules are invalid."""


class ResizeMode(StrEnum):
    """How `size` is applied."""

    NO = "no"
    """Pictures keep their size."""
    KEEP_RATIO = "keep_ratio"
    """The shorter side becomes `size`."""
    KEEP_RATIO_LARGEST = "keep_ratio_largest"
    """The longer side becomes `size`."""
    CENTER_CROP = "center_crop"
    """As keep_ratio, then the middle square is cropped."""
    BORDER = "border"
    """As keep_ratio_largest, then a white border makes it a square."""


class EncodeFormat(StrEnum):
    """The format of stored pictures; the label is the file's extension."""

    JPG = "jpg"
    WEBP = "webp"
    PNG = "png"


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Limits for received pictures, and the form in which they are stored; sizes in pixels."""

    size: int = 256
    resize_mode: ResizeMode = ResizeMode.KEEP_RATIO
    only_if_bigger: bool = True
    reencode: bool = True
    """False stores the bytes as received, without decoding them; requires resize_mode "no"."""
    encode_format: EncodeFormat = EncodeFormat.JPG
    encode_quality: int = 95  # img2dataset's default; 0–100, ignored for png
    min_bytes: int = 5_000  # LAION's; smaller files are icons, spacers or counters
    max_bytes: int = 20_000_000
    max_pixels: int = 89_478_484  # above this, Pillow warns of a decompression bomb
    min_image_size: int = 0
    """Minimum for the shorter side of the picture as received."""
    max_aspect_ratio: float = 0.0
    """Maximum of the longer side divided by the shorter; 0 means no limit."""
    sha1: bool = True
    """Compute sha1 of the received bytes, in addition to sha256 and md5, for hash lists that contain only sha1. It
    takes 0.04 ms for 77 KB: 1.4 % of a download that re-encodes pictures, 8 % of one that stores them as received.
    """
    pdq: bool = False
    """Compute PDQ, the perceptual hash, of each picture; hash lists that contain PDQs switch it on."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("size", self.size, 1, 8_192),
            ("encode_quality", self.encode_quality, 0, 100),
            ("min_bytes", self.min_bytes, 0, self.max_bytes),
            ("max_bytes", self.max_bytes, 1, 1 << 30),
            ("max_pixels", self.max_pixels, 1, 89_478_484),
            ("min_image_size", self.min_image_size, 0, 65_535),
        ):
            if not low <= value <= high:
                raise ImageRulesError(f"The image rule {name} is {value}: give a number from {low} to {high}.")
        if self.max_aspect_ratio and not 1 <= self.max_aspect_ratio < math.inf:
            raise ImageRulesError(
                f"The image rule max_aspect_ratio is {self.max_aspect_ratio}: give at least 1, or 0 for no limit."
            )
        if not self.reencode and self.resize_mode is not ResizeMode.NO:
            raise ImageRulesError(f"Without reencode, resize_mode cannot be {self.resize_mode}: set it to no.")

    @classmethod
    def from_json(cls, rules: Mapping[str, object]) -> Self:
        """Read the recipe's "image" object; missing rules have their default.

        Raises: ImageRulesError for an unknown key or a value of the wrong type.
        """
        known = {field.name: field.default for field in fields(cls)}
        for name, value in rules.items():
            if name not in known:
                raise ImageRulesError(f"{name!r} is not an image rule: use {', '.join(known)}.")
            default = known[name]
            wanted = str if isinstance(default, str) else type(default)
            if wanted is float and type(value) is int:
                continue
            if type(value) is not wanted and not (wanted is str and isinstance(value, str)):
                raise ImageRulesError(f"The image rule {name} is {value!r}: give a {wanted.__name__}.")
        try:
            chosen = dict(rules)
            if "max_aspect_ratio" in chosen:
                chosen["max_aspect_ratio"] = float(str(chosen["max_aspect_ratio"]))
            if "resize_mode" in chosen:
                chosen["resize_mode"] = ResizeMode(str(chosen["resize_mode"]))
            if "encode_format" in chosen:
                chosen["encode_format"] = EncodeFormat(str(chosen["encode_format"]))
        except ValueError as error:
            labels = ", ".join([*ResizeMode, *EncodeFormat])
            raise ImageRulesError(f"{error} for an image rule: use one of {labels}.") from error
        return cls(**chosen)  # type: ignore[arg-type]  # each value's type was compared with the default's

    def to_json(self) -> dict[str, object]:
        """Return the recipe's "image" object with every rule."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}
