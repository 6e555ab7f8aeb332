"""From a sample to what a model takes: pixels of its size and tokens, without a model and without a GPU.

Invariant: pictures go through open_clip's own transforms, all but the last two (to floats, and normalised), which
`dataset.models.towers` does on the device: so a picture travels as one byte a colour and its numbers are the same to
the bit.

A picture of 256 pixels and 47 KB takes 2.9 ms of a CPU and a text 0.1 ms, all of the latter under the interpreter's
lock: for a GPU that takes thousands of samples a second this runs in processes of its own (`dataset.models.decoders`).
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int32]

TOKENIZED_CHARACTERS = 1_000
"""A context of 77 tokens is about 330 characters of English; byte pair encoding takes quadratic time in a word."""

TOKENIZER_CACHE_WORDS = 200_000
"""open_clip's tokenizer remembers every word that it has seen, for ever; about 50 MB."""

_CODEC_FAULTS = (
    OSError,  # also what Pillow calls truncated, and UnidentifiedImageError
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow was seen to raise for damaged files of the three formats in which a shard keeps pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """How one model wants its input; can be pickled. `height` and `width` in pixels, `context` in tokens."""

    steps: tuple[Callable[[Image.Image], Image.Image], ...]
    tokenizer: Callable[[list[str]], Any]
    height: int
    width: int
    context: int

    def pixels(self, image: Image.Image) -> Pixels:
        """Bring a picture of any size and mode to the model's, (H, W, 3) uint8."""
        for step in self.steps:
            image = step(image)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Cut texts to the model's context, (N, context) int32, padded as the model wants it."""
        if not texts:
            return np.empty((0, self.context), np.int32)
        tokens: Tokens = self.tokenizer([text[:TOKENIZED_CHARACTERS] for text in texts]).numpy().astype(np.int32)
        _bound_cache(self.tokenizer)
        return tokens

    def fill(self, images: Sequence[bytes], texts: Sequence[str], into: Pixels) -> tuple[list[bool], Tokens]:
        """Decode pictures into the rows of `into`, (N, H, W, 3); say which could be, and give all texts' tokens.

        The row of a picture that cannot be decoded keeps what it held.
        """
        good = []
        for row, data in zip(into, images, strict=True):
            picture = decoded(data)
            good.append(picture is not None)
            if picture is not None:
                row[:] = self.pixels(picture)
        return good, self.tokens(texts)


def decoded(data: bytes) -> Image.Image | None:
    """Decode a picture of a shard to RGB, None when it cannot be."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"]) as image:
            return image.convert("RGB")
    except _CODEC_FAULTS:
        return None


def _bound_cache(tokenizer: object) -> None:
    """Forget the words that open_clip's own tokenizer keeps, when they are many; its marks are kept."""
    cache = getattr(tokenizer, "cache", None)
    if isinstance(cache, dict) and len(cache) > TOKENIZER_CACHE_WORDS:
        marks = {
            word: code for word, code in cache.items() if word in getattr(tokenizer, "encoder", {}) and word == code
        }
        cache.clear()
        cache.update(marks)
