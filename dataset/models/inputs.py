"""Prepare a sample for a model: pixels of its size, and tokens; without a model and without a GPU.

Invariant: pictures go through open_clip's own transforms except the last two (conversion to floats and normalisation),
which `dataset.models.towers` does on the device. So a picture travels as one byte per colour, and its numbers are the
same to the bit.

A picture of 256 pixels and 47 KB takes 2.9 ms of CPU and a text 0.1 ms; tokenizing holds the GIL. All of it runs in the
processes of `dataset.models.decoders`, because pictures are untrusted. The other tasks of those processes are defined
here, too.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dataset.pictures.fingerprints import Fingerprint, fingerprint
from dataset.pictures.pdq import pdq_of

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int32]

TOKENIZED_CHARACTERS = 1_000
"""Texts are cut to this length first: 77 tokens are about 330 characters of English, and byte pair encoding takes
quadratic time in the length of a word."""

TOKENIZER_CACHE_WORDS = 200_000
"""Limit for the cache of open_clip's tokenizer, which otherwise keeps every word for ever; about 50 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """The preprocessing of one model; picklable. `height` and `width` are in pixels, `context` in tokens."""

    steps: tuple[Callable[[Image.Image], Image.Image], ...]
    tokenizer: Callable[[list[str]], Any]
    height: int
    width: int
    context: int

    def __call__(self, image: Image.Image) -> bytes:
        """Return a picture's `pixels`, row by row (a decoder's task)."""
        return self.pixels(image).tobytes()

    def pixels(self, image: Image.Image) -> Pixels:
        """Return a picture of any size and mode at the model's size, (H, W, 3) uint8."""
        for step in self.steps:
            image = step(image)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of texts, cut and padded to the model's context, (N, context) int32."""
        if not texts:
            return np.empty((0, self.context), np.int32)
        tokens: Tokens = self.tokenizer([text[:TOKENIZED_CHARACTERS] for text in texts]).numpy().astype(np.int32)
        _bound_cache(self.tokenizer)
        return tokens


@dataclass(frozen=True, slots=True)
class Square:
    """A decoder's task: a picture resized to a square, (side, side, 3) uint8."""

    side: int

    def __call__(self, image: Image.Image) -> bytes:
        """Return the pixels row by row."""
        return np.asarray(image.resize((self.side, self.side), Image.Resampling.BILINEAR)).tobytes()


@dataclass(frozen=True, slots=True)
class PictureHash:
    """A decoder's task: a picture's PDQ in ASCII; empty if the picture has too little contrast."""

    def __call__(self, image: Image.Image) -> bytes:
        """Return 64 hex digits."""
        return (pdq_of(np.asarray(image)) or "").encode("ascii")


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """A decoder's task: a picture's squares of several sides, each as `Square` makes it, and its `Fingerprint`."""

    sides: tuple[int, ...] = ()

    def __call__(self, image: Image.Image) -> bytes:
        """Return the squares in the order of `sides`, and then the fingerprint, as `read` takes them apart."""
        return b"".join(Square(side)(image) for side in self.sides) + fingerprint(np.asarray(image)).to_bytes()

    def read(self, said: bytes) -> tuple[list[Pixels], Fingerprint] | None:
        """Return the squares (side, side, 3) uint8 and the fingerprint; None if `said` is too short to be both."""
        ends = np.cumsum([side * side * 3 for side in self.sides], dtype=np.int64).tolist()
        *squares, rest = (said[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True))
        if not rest:
            return None
        shaped = zip(squares, self.sides, strict=True)
        return [np.frombuffer(square, np.uint8).reshape(side, side, 3) for square, side in shaped], (
            Fingerprint.from_bytes(rest)
        )


@dataclass(frozen=True, slots=True)
class SmallJpeg:
    """A decoder's task: a JPEG whose sides are at most `pixels`."""

    pixels: int

    def __call__(self, image: Image.Image) -> bytes:
        """Return the JPEG."""
        image.thumbnail((self.pixels, self.pixels))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=75)
        return file.getvalue()


def _bound_cache(tokenizer: object) -> None:
    """Clear the word cache of open_clip's tokenizer when it is large, except its special tokens."""
    cache = getattr(tokenizer, "cache", None)
    if isinstance(cache, dict) and len(cache) > TOKENIZER_CACHE_WORDS:
        marks = {
            word: code for word, code in cache.items() if word in getattr(tokenizer, "encoder", {}) and word == code
        }
        cache.clear()
        cache.update(marks)
