"""CLIP models whose time is counted: how busy the GPU (or CPU) is with them is the rate of that count."""

from collections.abc import Sequence
from dataclasses import fields

from PIL import Image

from dataset.clip import ClipModel, Embeddings
from workers import metrics


class TimedModel(ClipModel):
    """A model as it was loaded, its embeddings timed: they are numpy arrays, so what computed them has ended."""

    @classmethod
    def of(cls, model: ClipModel) -> "TimedModel":
        return cls(*(getattr(model, field.name) for field in fields(model)))

    def embed_images(self, images: Sequence[Image.Image]) -> Embeddings:
        with metrics.model_busy():
            return super().embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        with metrics.model_busy():
            return super().embed_texts(texts)
