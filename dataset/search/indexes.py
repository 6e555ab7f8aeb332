"""An opened index, or two of one release, as the server's engine."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import IndexRecord, SearchIndexError
from dataset.index.collapse import COLLAPSE_AT
from dataset.index.filters import Condition, Filter, check_filter, parse_filter
from dataset.index.groups import COLUMNS as GROUP_COLUMNS
from dataset.index.lookup import Index
from dataset.index.numbers import NAMES
from dataset.search.engine import Count, Found, Ids, Near, Vectors, Where
from dataset.search.errors import SearchError

SAFE = "safe"
COUNTED = 1_000
"""Results of a search by which rows above a threshold are counted; the share of all rows is halved until fewer are."""
SMALLEST_SHARE = 2.0**-20


class SearchedIndex:
    """The indexes of one release, or of one folder of vectors, by modality; the first one's rows are shown."""

    def __init__(self, name: str, by_modality: Mapping[str, Index]) -> None:
        """Raises: SearchIndexError when the indexes are of different models."""
        self._name = name
        self._by_modality = dict(by_modality)
        self._first = next(iter(self._by_modality.values()))
        models = {index.record.model for index in self._by_modality.values()}
        if len(models) > 1:
            named = ", ".join(sorted(model.name for model in models))
            raise SearchIndexError(f"The indexes of {name} are of different models ({named}): name one with --model.")
        record = self._first.record
        self._dimensions = record.dimensions
        self._model = record.model
        self._facets: tuple[IndexRecord, dict[str, int]] = record, self._first.facets()

    @property
    def name(self) -> str:
        """Return the name by which clients choose the index."""
        return self._name

    @property
    def release(self) -> str:
        """Return the name of the release that the rows are of; '' if they are of none."""
        record = self._first.record
        return record.name if record.version else ""

    @property
    def generation(self) -> str:
        """Return a word that changes with builds and added segments; a removal does not change it."""
        records = [index.record for index in self._by_modality.values()]
        return "/".join(f"{one.generation}+{'+'.join(part.name for part in one.segments)}" for one in records)

    @property
    def dimensions(self) -> int:
        """Return the length of the vectors."""
        return self._dimensions

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return which vectors there are."""
        return tuple(self._by_modality)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of rows."""
        record = self._first.record
        groups = GROUP_COLUMNS if self._first.has_groups else ()
        return tuple(dict.fromkeys(NAMES.get(name, name) for name in (*record.texts, *record.numbers, *groups)))

    @property
    def model(self) -> str | None:
        """Return the model's name."""
        return self._model.name or None

    @property
    def model_sha256(self) -> str:
        """Return the checksum of the model's weights, or ''."""
        return self._model.sha256

    @property
    def can_be_safe(self) -> bool:
        """Return whether rows have punsafe."""
        return SAFE in self.facets()

    @property
    def has_groups(self) -> bool:
        """Return whether all indexes have the groups of near-duplicates."""
        return all(index.has_groups for index in self._by_modality.values())

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._first.record.rows

    def parse_filter(self, text: str, *, safe: bool) -> Where | None:
        """Return the filter; in safe mode only rows with the facet `safe` pass, if the index has it.

        Raises: SearchError (400).
        """
        known = self.facets()
        try:
            found = parse_filter(text)
            check_filter(found, known)
        except SearchIndexError as error:
            raise SearchError(400, str(error), field="filters") from error
        if safe and SAFE in known:
            found = replace(found, conditions=(*found.conditions, Condition((SAFE,))))
        return None if found == Filter() else found

    def search(
        self, queries: Vectors, k: int, *, modality: str, where: Where | None, collapse: bool
    ) -> Sequence[Found]:
        """Return the nearest rows of each query."""
        index = self._by_modality[modality]
        found = index.search(queries, min(k, max(1, index.record.rows)), where=_filter(where), collapse=collapse)
        return [Found(one.ids, one.similarities, one.left_out, one.groups) for one in found]

    def near_duplicates(self, row: int, where: Where | None, most: int, modality: str) -> Near | None:
        """Return the other rows of a row's group; without groups, those whose cosine is COLLAPSE_AT or more."""
        index = self._by_modality[modality]
        if index.has_groups:
            group = index.group(row, _filter(where), most + 1)
            return None if group is None else Near(group.ids[group.ids != row][:most], group.size)
        ids = np.array([row], np.int64)
        vector = index.embeddings(ids).astype(np.float32)
        if not vector.any():
            return None
        (hits,) = index.search(vector, most + 1, where=_filter(where))
        near = hits.ids[hits.similarities >= COLLAPSE_AT]
        near = near[near != row][:most]
        return Near(near, len(near) + 1)

    def count(self, where: Where | None, query: Vectors | None, at_least: float | None, modality: str) -> Count:
        """Return how many rows pass; those near a query are counted in a random share of the rows that is small enough.

        The bounds are those of a Poisson count; rows that the search misses are not in them.
        """
        index = self._by_modality[modality]
        chosen = _filter(where) or Filter()
        if query is None or at_least is None:
            rows = index.count(chosen)
            return Count(rows, rows, rows)
        share = 1.0
        while True:
            (hits,) = index.search(query[None], COUNTED, where=replace(chosen, share=share))
            near = int((hits.similarities >= at_least).sum())
            if near < COUNTED or share <= SMALLEST_SHARE:
                break
            share /= 8
        if share == 1.0:
            return Count(near, near, near)
        error = 1.96 * sqrt(near) + 1
        return Count(round(near / share), max(0, ceil((near - error) / share)), ceil((near + error) / share))

    def rows(self, ids: Ids, columns: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return the columns of rows; None for a row that is gone."""
        found = self._first.rows(ids, columns)
        return [None if row is None else {name: row.get(name) for name in columns} for row in found]

    def embeddings(self, ids: Ids, modality: str) -> npt.NDArray[np.float16]:
        """Return the vectors of rows; zeros for a row that is gone."""
        return self._by_modality[modality].embeddings(ids)

    def facets(self) -> dict[str, int]:
        """Return the facets with their counts; they are added up once for each state of the index."""
        record = self._first.record
        if self._facets[0] is not record:
            self._facets = record, self._first.facets()
        return self._facets[1]


def _filter(where: Where | None) -> Filter | None:
    assert where is None or isinstance(where, Filter)
    return where
