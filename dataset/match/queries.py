"""Generated pictures as queries: embedded, hashed, and compared with all embeddings of a release."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import ImageOps
from threadpoolctl import threadpool_limits

from dataset.dedup.plant import Embedder
from dataset.dedup.vectors import Vectors
from dataset.match.pixels import Floats, Pixels, square
from dataset.pictures.open_stored import open_stored
from dataset.pictures.pdq import pdq_of

Integers = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

NEAREST_ROWS = 50
"""Rows that are looked at for each picture."""
_PICTURES_AT_ONCE, _QUERIES_AT_ONCE = 32, 512


@dataclass(slots=True)
class Queries:
    """The pictures that can be read, in order, and the names of the others."""

    names: list[str] = field(default_factory=list)
    squares: list[Pixels] = field(default_factory=list)
    plain: list[Floats] = field(default_factory=list)
    mirrored: list[Floats] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)
    pdq: list[str | None] = field(default_factory=list)
    """In hex."""
    mirrored_pdq: list[str | None] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def read_queries(model: Embedder, pictures: Iterable[tuple[str, bytes]]) -> Queries:
    """Embed and hash pictures, as they are and mirrored, and keep them at 256 by 256 pixels."""
    read, each = Queries(), iter(pictures)
    while some := list(islice(each, _PICTURES_AT_ONCE)):
        opened = [(name, open_stored(data)) for name, data in some]
        read.unreadable += [name for name, image in opened if image is None]
        images = [image for _, image in opened if image is not None]
        if images:
            mirrored = [ImageOps.mirror(one) for one in images]
            read.sha256 += [
                hashlib.sha256(data).hexdigest()
                for (_, data), (_, image) in zip(some, opened, strict=True)
                if image is not None
            ]
            with threadpool_limits(1, "blas"):  # as in dedup/plant.py
                read.pdq += [pdq_of(np.asarray(one)) for one in images]
                read.mirrored_pdq += [pdq_of(np.asarray(one)) for one in mirrored]
            read.names += [name for name, image in opened if image is not None]
            read.squares += [square(image) for image in images]
            read.plain.append(model.embed_images(images).astype(np.float32))
            read.mirrored.append(model.embed_images(mirrored).astype(np.float32))
    return read


def nearest_rows(vectors: Vectors, queries: Floats, on_progress: Progress) -> tuple[Integers, Floats]:
    """Return the ids and cosines of the NEAREST_ROWS nearest rows of each query -> (Q, k); all rows are read once."""
    ids = np.full((len(queries), NEAREST_ROWS), -1, np.int64)
    cosines, done = np.full((len(queries), NEAREST_ROWS), -2, np.float32), 0
    for own, block in vectors.blocks():
        if not len(own):
            continue
        count = min(NEAREST_ROWS, len(own))
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            one = slice(start, start + _QUERIES_AT_ONCE)
            some = queries[one] @ block.T  # (Q, N)
            best = np.argpartition(-some, count - 1, axis=1)[:, :count]
            both = np.concatenate([ids[one], own[best]], axis=1)
            near = np.concatenate([cosines[one], np.take_along_axis(some, best, axis=1)], axis=1)
            order = np.lexsort((both, -near), axis=1)[:, :NEAREST_ROWS]
            ids[one], cosines[one] = np.take_along_axis(both, order, axis=1), np.take_along_axis(near, order, axis=1)
        done += len(own)
        on_progress("reading embeddings", done, vectors.rows)
    return ids, cosines
