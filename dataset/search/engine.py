"""What the server needs of an index; `dataset.search.indexes` makes one of an opened index, tests use arrays.

All methods may be called from several threads at once, and release the interpreter while they compute.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Where = Hashable
"""A parsed filter. Queries with equal filters are searched together."""

MODALITIES = ("image", "text")


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest rows of one query, the best first; K is at most the k that was asked."""

    ids: Ids  # (K,)
    similarities: Vectors  # (K,) exact cosines
    left_out: Ids  # (K,) near-duplicates that were left out for each row
    groups: Ids  # (K,) equal for near-duplicates in a collapsed list; otherwise the ids


@dataclass(frozen=True, slots=True)
class Near:
    """A row's near-duplicates, at most as many as were asked for."""

    ids: Ids  # (K,) without the row itself
    size: int
    """Rows of the group; where the index has no groups, those that were found."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows there are; `low` and `high` bound it with a confidence of 95 %."""

    rows: int
    low: int
    high: int


class Engine(Protocol):
    """One index: rows with an id, a vector per modality, and columns."""

    @property
    def name(self) -> str:
        """Return the name by which clients choose the index."""

    @property
    def release(self) -> str:
        """Return the name of the release that the rows are of; '' if they are of none."""

    @property
    def generation(self) -> str:
        """Return a word that changes whenever the order of results may; cursors hold it."""

    @property
    def dimensions(self) -> int:
        """Return the length of the vectors."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return which vectors there are, of MODALITIES."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of rows: url, caption, WIDTH, …"""

    @property
    def model(self) -> str | None:
        """Return the name of the vectors' model, if it is known."""

    @property
    def model_sha256(self) -> str:
        """Return the checksum of its weights; '' if the vectors do not name it."""

    @property
    def can_be_safe(self) -> bool:
        """Return whether rows have a score by which safe mode filters."""

    @property
    def has_groups(self) -> bool:
        """Return whether near-duplicates are known: then they are counted exactly, and have the column group_size."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def parse_filter(self, text: str, *, safe: bool) -> Where | None:
        """Return the filter that a text means, with safe mode; None if it admits every row.

        Raises: SearchError (400).
        """

    def search(
        self, queries: Vectors, k: int, *, modality: str, where: Where | None, collapse: bool
    ) -> Sequence[Found]:
        """Return the nearest rows of each query, (N, D) float32 unit rows."""

    def near_duplicates(self, row: int, where: Where | None, most: int, modality: str) -> Near | None:
        """Return the near-duplicates of a row that a filter admits; None for an id that does not exist any more."""

    def count(self, where: Where | None, query: Vectors | None, at_least: float | None, modality: str) -> Count:
        """Return how many rows a filter admits; with a query (D,), those at least as similar as `at_least`."""

    def rows(self, ids: Ids, columns: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return the columns of rows; None for an id that does not exist any more."""

    def embeddings(self, ids: Ids, modality: str) -> npt.NDArray[np.float16]:
        """Return the vectors of rows, (N, D); zeros for an id that does not exist any more."""

    def facets(self) -> Mapping[str, Any]:
        """Return the values and counts by which rows can be filtered."""
