"""The near-duplicates of a row, as our own API returns them: what stands behind a collapsed result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataset.search.engine import Where
from dataset.search.service import ServedIndex

MOST_COMPARED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NearQuestion:
    """What is asked about a row."""

    row: int
    where: Where | None
    modality: str
    limit: int
    columns: tuple[str, ...]


def near_duplicates(items: Sequence[NearQuestion], *, served: ServedIndex) -> list[dict[str, Any] | None]:
    """Answer questions; None for a row that is not there, or may not be shown.

    Results are ordered by their cosine with the row. The order is that of at most MOST_COMPARED rows: those with the
    smallest ids of a larger group.
    """
    return [_answer(asked, served) for asked in items]


def _answer(asked: NearQuestion, served: ServedIndex) -> dict[str, Any] | None:
    engine, own = served.engine, np.array([asked.row], np.int64)
    if not served.screen.visible(engine, own)[0]:
        return None
    near = engine.near_duplicates(asked.row, asked.where, MOST_COMPARED, asked.modality)
    if near is None:
        return None
    ids = near.ids[served.screen.visible(engine, near.ids)]
    (vector,) = engine.embeddings(own, asked.modality).astype(np.float32)
    similarities = engine.embeddings(ids, asked.modality).astype(np.float32) @ vector
    order = np.argsort(-similarities, kind="stable")[: asked.limit]
    rows = engine.rows(ids[order], asked.columns)
    return {
        "index": engine.name,
        "id": asked.row,
        "group_size": near.size,
        "exact": engine.has_groups,
        "results": [
            {"id": id_, "similarity": similarity, "row": row}
            for id_, similarity, row in zip(ids[order].tolist(), similarities[order].tolist(), rows, strict=True)
            if row is not None
        ],
    }
