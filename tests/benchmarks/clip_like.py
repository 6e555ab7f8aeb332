"""Vectors like CLIP's: neighbours as near as among ViT-B/32's pictures, texts as far from pictures as CLIP's.

A picture is .72 of one mean direction and .694 of a centred part, which has three levels: 150 topics, 6,000 subjects
with Zipf-like frequencies, and its own. Standard deviations fall with the number of the direction, under one random
rotation. A text has a cosine of .30 to .35 with its picture and of .15 to .20 with others.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]

DIMENSIONS = 768
MEAN, CENTRED = 0.72, 0.694
TOPICS, SUBJECTS = 150, 6_000
_TOPIC_SHARE = 0.35
_OWN_SHARE = (0.15, 0.75)
_TEXT = {"mean": 0.25, "picture": 0.2, "texts": 0.8}


@dataclass
class ClipLike:
    """Draws pictures and texts; equal seeds give equal vectors."""

    seed: int = 1
    dimensions: int = DIMENSIONS
    rotation: Rows = field(init=False)

    def __post_init__(self) -> None:
        draw = np.random.default_rng(self.seed)
        square = draw.normal(size=(self.dimensions, self.dimensions)).astype(np.float32)
        self.rotation = np.linalg.qr(square)[0].astype(np.float32)
        self._topics = _spectrum(draw, TOPICS, self.dimensions, 0.5)
        self._subjects = _spectrum(draw, SUBJECTS, self.dimensions, 0.5)
        self._topic_of = draw.integers(0, TOPICS, SUBJECTS)
        weights = np.arange(1, SUBJECTS + 1) ** -0.7
        self._frequency = weights / weights.sum()
        self._mean = _unit(draw.normal(size=self.dimensions).astype(np.float32))
        text = draw.normal(size=self.dimensions).astype(np.float32)
        self._text_mean = _unit(text - (text @ self._mean) * self._mean)

    def pairs(self, rows: int, number: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
        """Return block `number` of pictures and their texts -> (rows, D) float16 unit rows, twice."""
        draw = np.random.default_rng([self.seed, number])
        subject = draw.choice(SUBJECTS, rows, p=self._frequency)
        shared = np.sqrt(_TOPIC_SHARE) * self._topics[self._topic_of[subject]]
        shared += np.sqrt(1 - _TOPIC_SHARE) * self._subjects[subject]
        own_share = draw.uniform(*_OWN_SHARE, size=(rows, 1)).astype(np.float32)
        centred = np.sqrt(1 - own_share) * shared + np.sqrt(own_share) * _spectrum(draw, rows, self.dimensions, 0.45)
        centred = _unit(centred @ self.rotation)
        pictures = _unit(MEAN * self._mean + CENTRED * centred)
        noise = _unit(_spectrum(draw, rows, self.dimensions, 0.45) @ self.rotation)
        left = np.sqrt(1 - sum(share**2 for share in _TEXT.values()))
        texts = (
            _TEXT["mean"] * self._mean + _TEXT["picture"] * centred + _TEXT["texts"] * self._text_mean + left * noise
        )
        return pictures.astype(np.float16), _unit(texts).astype(np.float16)


def _spectrum(draw: np.random.Generator, rows: int, dimensions: int, power: float) -> Rows:
    """Draw rows of length about 1 whose direction i has the standard deviation i^-power."""
    deviations = np.arange(1, dimensions + 1, dtype=np.float32) ** -power
    deviations /= np.linalg.norm(deviations)
    return draw.standard_normal((rows, dimensions), np.float32) * deviations


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)
