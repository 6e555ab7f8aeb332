"""The terms of a query, and the one vector that they make: q = Σ wᵢ·eᵢ, a unit row.

Each term is a text, a picture, a picture's URL, the id of a row, or a vector; its weight may be negative. Every eᵢ is a
unit row first, so that a weight means the same for every kind of term.
"""

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dataset.search.encoder import NO_ENCODER, Encoder
from dataset.search.engine import Engine, Vectors
from dataset.search.errors import SearchError
from dataset.search.fetcher_client import FetcherClient
from dataset.search.metrics import Metrics

MOST_TERMS = 16


class TermKind(StrEnum):
    """The kind of a term; the label is the field of a request."""

    TEXT = "text"
    PICTURE = "picture"
    URL = "url"
    ID = "id"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Term:
    """A term as requested: a text, a picture in base64, a URL, an id, or a tuple of floats."""

    kind: TermKind
    value: str | int | tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the vectors of terms come from; without an encoder only ids and vectors work."""

    encoder: Encoder | None
    fetcher: FetcherClient
    metrics: Metrics

    def encoder_for(self, engine: Engine) -> Encoder:
        """Return the encoder if its model is the index's.

        Raises: SearchError (409).
        """
        if self.encoder is None or self.encoder.loaded is None:
            raise SearchError(409, NO_ENCODER)
        loaded = self.encoder.loaded
        is_same = loaded.sha256 == engine.model_sha256 if engine.model_sha256 else True
        if not is_same or loaded.dimensions != engine.dimensions:
            raise SearchError(
                409, f"The index {engine.name} is of another model than this server's {loaded.model}: search it by id."
            )
        return self.encoder


async def query_vector(terms: Sequence[Term], engine: Engine, sources: Sources, modality: str) -> Vectors:
    """Return the vector of a query, (D,) float32, a unit row.

    Raises: SearchError: 400 when the terms cancel each other out, 404 for an unknown id, and those of each source.
    """
    rows = await asyncio.gather(*(_vector(term, engine, sources, modality) for term in terms))
    total = np.sum([term.weight * row for term, row in zip(terms, rows, strict=True)], axis=0, dtype=np.float64)
    length = float(np.linalg.norm(total))
    if not 1e-6 < length < np.inf:
        raise SearchError(400, "The terms cancel each other out: change a weight.", field="terms")
    unit: Vectors = np.asarray(total / length, np.float32)
    return unit


async def _vector(term: Term, engine: Engine, sources: Sources, modality: str) -> Vectors:
    match term.kind:
        case TermKind.TEXT:
            return await sources.encoder_for(engine).text(str(term.value))
        case TermKind.PICTURE:
            encoder = sources.encoder_for(engine)
            return await encoder.picture(await asyncio.to_thread(decode_base64, str(term.value)))
        case TermKind.URL:
            encoder = sources.encoder_for(engine)
            with sources.metrics.timed("download_time"):
                picture = await sources.fetcher.fetch(str(term.value))
            return await encoder.picture(picture)
        case TermKind.ID:
            ids = np.array([term.value], np.int64)
            rows = await asyncio.to_thread(engine.embeddings, ids, modality)
            if not rows.any():
                raise SearchError(404, f"The index {engine.name} has no row {term.value}.", field="terms")
            return _unit(rows[0].astype(np.float32))
        case TermKind.VECTOR:
            assert isinstance(term.value, tuple)
            return given_vector(term.value, engine)


def given_vector(values: Sequence[float], engine: Engine) -> Vectors:
    """Return a vector that a client gave, as a unit row.

    Raises: SearchError (400) when it does not fit the index, or is zero or not finite.
    """
    try:
        with np.errstate(over="ignore"):
            row = np.asarray(values, np.float32)
    except OverflowError as error:  # an integer of hundreds of digits
        raise SearchError(400, "The vector is not finite.", field="vector") from error
    if row.shape != (engine.dimensions,):
        raise SearchError(
            400, f"The vector has {row.size} values: the index {engine.name} has {engine.dimensions}.", field="vector"
        )
    return _unit(row)


def _unit(row: Vectors) -> Vectors:
    length = float(np.linalg.norm(row))
    if not 0 < length < np.inf:
        raise SearchError(400, "The vector is zero or not finite.", field="vector")
    unit: Vectors = row / np.float32(length)
    return unit


def decode_base64(text: str) -> bytes:
    """Return the bytes of a picture in base64, with or without the head of a data URL.

    Raises: SearchError (400).
    """
    try:
        data = base64.b64decode(text.partition("base64,")[2] if text.startswith("data:") else text)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise SearchError(400, "The picture is not base64.", field="picture")
    return data
