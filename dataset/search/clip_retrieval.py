"""clip-retrieval's HTTP API, as its client and its front end call it.

Source: clip_back.py of clip-retrieval 2.45.0, its client and its front end. The same requests get the same answers,
with these differences: numbers that are not JSON are null; an error has the right status and a sentence; filters run
before the search and duplicates are replaced by further results, so a page is full if there are rows; rows that are
gone have empty metadata; the file at `image_path` is never read. aesthetic_score adds the vector of a rating, if the
operator gave these vectors, which clip_back downloads; use_mclip and use_violence_detector change nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset import strict_json
from dataset.search.bodies import Fields
from dataset.search.engine import MODALITIES, Engine, Ids, Vectors
from dataset.search.errors import SearchError
from dataset.search.listing import MOST_DEPTH, Listing
from dataset.search.metrics import FULL
from dataset.search.service import ServedIndex, Service
from dataset.search.terms import Term, TermKind, given_vector, query_vector

DEFAULT_COLUMNS = ("url", "image_path", "caption", "NSFW")
"""What clip_back returns unless it is told otherwise, as far as an index has it."""

RATINGS = 10
"""Of LAION's aesthetic predictor: 0 to 9."""

NEAR_DUPLICATE = 0.94
"""clip_back's threshold of the inner product."""

MOST_DEDUPLICATED = 10_000
"""Results beyond this rank are not compared with each other: the comparison takes quadratic time."""

MOST_METADATA = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnRequest:
    """A request to /knn-service."""

    index: str | None
    modality: str
    images: int
    results: int
    term: Term
    deduplicate: bool
    safe: bool | None
    rating: int | None
    """Of 0 to 9: the query moves towards pictures with this rating."""
    rating_weight: float


def parse_knn(given: Mapping[str, Any]) -> KnnRequest:
    """Check a request to /knn-service.

    Raises: SearchError (400) that names the field.
    """
    for name in ("modality", "num_images", "indice_name"):
        if name not in given:
            raise SearchError(400, f"{name} is missing.", field=name)
    fields = Fields(given)
    images = fields.integer("num_images", 0, low=0, high=MOST_DEPTH)
    modality = fields.get("modality", str, "image")
    rating, weight = _number(fields, "aesthetic_score"), _number(fields, "aesthetic_weight")
    if rating is not None and rating not in range(RATINGS):
        raise fields.wrong("aesthetic_score", f"must be an integer from 0 to {RATINGS - 1}")
    return KnnRequest(
        index=fields.get("indice_name", str) or None,  # clip-front asks with "" before it knows the names
        modality=modality if modality == "image" else "text",
        images=images,
        results=fields.integer("num_result_ids", images, low=0, high=MOST_DEPTH),
        term=_term(fields),
        deduplicate=fields.get("deduplicate", bool, False),
        safe=fields.get("use_safety_model", bool),
        rating=None if rating is None else int(rating),
        rating_weight=weight or 0.0,
    )


def _number(fields: Fields, name: str) -> float | None:
    """Return a field that is a number, or a text that is one; None for an empty text.

    Raises: SearchError for another text, and for a number that is not finite.
    """
    value = fields.get(name, (int, float, str), "")
    try:
        number = None if value == "" else float(value)
    except (ValueError, OverflowError) as error:
        raise fields.wrong(name, "is not a number") from error
    if number is not None and not math.isfinite(number):
        raise fields.wrong(name, "is not a finite number")
    return number


def _term(fields: Fields) -> Term:
    """Return the first of text, image, image_url and embedding_input that is given; an empty text is not."""
    if text := fields.get("text", str):
        return Term(TermKind.TEXT, text)
    if (image := fields.get("image", str)) is not None:
        return Term(TermKind.PICTURE, image)
    if (url := fields.get("image_url", str)) is not None:
        return Term(TermKind.URL, url)
    if (values := fields.numbers("embedding_input")) is not None:
        return Term(TermKind.VECTOR, values)
    raise SearchError(400, "Give one of text, image, image_url and embedding_input.", field="text")


class ClipRetrieval:
    """The answers of clip-retrieval's routes, as JSON bytes."""

    def __init__(
        self, service: Service, columns: Sequence[str] = DEFAULT_COLUMNS, ratings: Vectors | None = None
    ) -> None:
        """`ratings`, (RATINGS, D) float32, has the vector of each rating; indexes of other dimensions do without."""
        self._service = service
        self._columns = tuple(columns)
        self._ratings = ratings

    def indices(self) -> bytes:
        """Return the names of the indexes."""
        return _json([*self._service.indexes])

    async def knn(self, given: Mapping[str, Any]) -> bytes:
        """Answer /knn-service.

        Raises: SearchError.
        """
        with self._service.metrics.timed(FULL):
            return await self._knn(parse_knn(given))

    async def _knn(self, asked: KnnRequest) -> bytes:
        served = self._service.index(asked.index)
        engine = served.engine
        if asked.modality not in engine.modalities:
            raise SearchError(
                409, f"The index {engine.name} has no {asked.modality} index: set modality.", field="modality"
            )
        if not asked.results:
            return _json([])
        scale = 1.0
        if asked.term.kind is TermKind.VECTOR:
            assert isinstance(asked.term.value, tuple)
            vector = given_vector(asked.term.value, engine)
            scale = float(np.linalg.norm(np.asarray(asked.term.value, np.float64)))
        else:
            vector = await query_vector([asked.term], engine, self._service.sources, asked.modality)
        if asked.rating is not None and self._ratings is not None and self._ratings.shape[1] == engine.dimensions:
            moved = scale * vector + asked.rating_weight * self._ratings[asked.rating]
            vector, scale = given_vector(tuple(moved.tolist()), engine), 1.0
        answer: bytes = await self._service.search(
            served,
            vector,
            asked.results,
            partial(self._finish, asked, engine, scale),
            modality=asked.modality,
            where=engine.parse_filter("", safe=self._service.is_safe(asked.safe)),
            collapse=False,
            first_depth=asked.results,
        )
        return answer

    def _finish(self, asked: KnnRequest, engine: Engine, scale: float, listing: Listing, longer: Any) -> bytes:
        kept = np.arange(min(len(listing.ids), asked.results))
        if asked.deduplicate:
            with self._service.metrics.timed("dedup_time"):
                kept = self._without_duplicates(asked, engine, listing, longer)
        ids, similarities = listing.ids[kept], listing.similarities[kept] * np.float32(scale)
        with self._service.metrics.timed("metadata_get_time"):
            rows = self._metadata(engine, ids[: asked.images])
        results: list[dict[str, Any]] = [
            row | {"id": id_, "similarity": similarity}
            for row, id_, similarity in zip(
                [*rows, *({} for _ in ids[asked.images :])], ids.tolist(), similarities.tolist(), strict=True
            )
        ]
        return _json(results)

    def _without_duplicates(
        self, asked: KnnRequest, engine: Engine, listing: Listing, longer: Any
    ) -> npt.NDArray[np.int64]:
        """Return the places of results that are no duplicates of better ones, as many as were asked for."""
        size = min(asked.results, len(listing.ids))
        kept, compared = _distinct(engine, listing.ids[: min(size, MOST_DEDUPLICATED)], asked.modality, 0), size
        while len(kept) < asked.results and size < MOST_DEDUPLICATED:
            longer(min(2 * size, MOST_DEDUPLICATED))
            size = len(listing.ids)
            if size <= compared:
                break
            further = _distinct(engine, listing.ids[:size], asked.modality, compared)
            kept, compared = np.concatenate([kept, further]), size
        if size > MOST_DEDUPLICATED:
            kept = np.concatenate([kept, np.arange(MOST_DEDUPLICATED, size)])
        return kept[: asked.results]

    async def metadata(self, given: Mapping[str, Any]) -> bytes:
        """Answer /metadata: the columns of rows, in the order of the ids.

        Raises: SearchError.
        """
        fields = Fields(given)
        if (ids := fields.get("ids", list)) is None:
            raise SearchError(400, "ids is missing.", field="ids")
        if not ids:
            return _json([])
        if len(ids) > MOST_METADATA:
            raise fields.wrong("ids", f"has {len(ids)} ids: {MOST_METADATA:,} are allowed")
        if not fields.has("indice_name"):
            raise SearchError(400, "indice_name is missing.", field="indice_name")
        served = self._service.index(fields.get("indice_name", str))
        numbers = np.array([_id(one, fields) for one in ids], np.int64)
        work = partial(self._metadata_of, served=served)
        rows = await self._service.queue.submit(work, numbers, cost=1 + len(ids) // 500)
        return _json([{"id": asked, "metadata": row} for asked, row in zip(ids, rows, strict=True)])

    def _metadata_of(self, items: Sequence[Ids], served: ServedIndex) -> list[list[dict[str, Any]]]:
        found = []
        for ids in items:
            with self._service.metrics.timed("metadata_get_time"):
                rows = self._metadata(served.engine, ids)
                if not served.screen.hides_nothing:
                    visible = served.screen.visible(served.engine, ids)
                    rows = [row if is_visible else {} for row, is_visible in zip(rows, visible, strict=True)]
            found.append(rows)
        return found

    def _metadata(self, engine: Engine, ids: Ids) -> list[dict[str, Any]]:
        """Return the columns of rows; {} for a row that is gone."""
        names = [name for name in self._columns if name in engine.columns]
        return [row or {} for row in engine.rows(ids, names)]


def _id(value: object, fields: Fields) -> int:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise fields.wrong("ids", "must be a list of ids")
    return value


def _distinct(engine: Engine, ids: Ids, modality: str, start: int) -> npt.NDArray[np.int64]:
    """Return the places from `start` on of rows that begin a connected component of near-duplicates.

    Components are those of all rows given; the best-ranked row of a component begins it.
    """
    rows = engine.embeddings(ids, modality).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1)
    first = np.arange(len(ids))  # the best-ranked row of the component, as far as it is known
    for at in range(0, len(rows), 1_024):
        left, right = np.nonzero(rows[at : at + 1_024] @ rows.T >= NEAR_DUPLICATE)
        for one, other in zip((left + at).tolist(), right.tolist(), strict=True):
            if one < other:
                _join(first, one, other)
    roots = np.array([_root(first, place) for place in range(len(first))], np.int64)
    begins = np.nonzero(roots == np.arange(len(first)))[0]
    return begins[begins >= start]


def _root(first: npt.NDArray[np.int64], place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = int(first[place])
    return place


def _join(first: npt.NDArray[np.int64], one: int, other: int) -> None:
    low, high = sorted((_root(first, one), _root(first, other)))
    first[high] = low


def _json(value: object) -> bytes:
    return (strict_json.dumps(value) + "\n").encode("utf-8")


assert MODALITIES == ("image", "text")
