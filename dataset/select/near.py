"""`--near`: the rows nearest to a query by the kNN index, as two further columns that an expression may use.

All lists of the index are searched: a selection reads the whole release, so it may also read the whole index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.select.errors import SelectError
from dataset.side_tables.rows import ReleaseRows, RowGroup

if TYPE_CHECKING:
    from dataset.index.lookup import Index

RANK, SIMILARITY = "near_rank", "near_similarity"
_SCHEMA = pa.schema([(RANK, pa.int64()), (SIMILARITY, pa.float32())])
_FIRST_ROWS = 1_000
"""Rows that are asked for first where only the least similarity is known."""


@dataclass(frozen=True, slots=True)
class NearRows:
    """Rows near a query, sorted by id: their rank, beginning with 1, and their similarity; each (N,)."""

    ids: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class RowsNear(ReleaseRows):
    """The rows of a release with `near_rank` and `near_similarity`, null for rows that are not near the query."""

    near: NearRows = NearRows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))

    @property
    def schema(self) -> pa.Schema:
        """All columns that an expression may use."""
        return pa.schema([*ReleaseRows.schema.fget(self), *_SCHEMA])  # type: ignore[attr-defined]

    @property
    def selected_schema(self) -> pa.Schema:
        """The columns of a selection."""
        return pa.schema([*self.data_schema, *_SCHEMA])

    def row_groups(self) -> Iterator[RowGroup]:
        """Yield the row groups of files that have a near row."""
        for group in ReleaseRows.row_groups(self):
            low, high = np.searchsorted(self.near.ids, (group.file.first_id, group.file.last_id + 1))
            if low < high:
                yield group

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Read columns of a row group, in this order."""
        rows = ReleaseRows.read(self, group, ["id", *(name for name in columns if name not in ("id", *_SCHEMA.names))])
        ids = rows["id"].to_numpy()
        at = np.minimum(np.searchsorted(self.near.ids, ids), len(self.near.ids) - 1)
        far = self.near.ids[at] != ids
        for name, values in ((RANK, self.near.ranks), (SIMILARITY, self.near.similarities)):
            rows = rows.append_column(name, pa.array(values[at], mask=far))
        return rows.select(list(columns))


def find_near(
    index: "Index", query: npt.NDArray[np.float32], *, nearest: int | None, at_least: float | None
) -> NearRows:
    """Return the `nearest` rows of a query (1, D), or all rows with at least a similarity; with both, the rows that
    meet both.

    Raises: SelectError when no row is near; SearchIndexError.
    """
    wanted = nearest or _FIRST_ROWS
    while True:
        (hits,) = index.search(query, min(wanted, index.record.rows), probes=index.record.lists)
        all_found = len(hits.ids) < wanted or at_least is None or bool(hits.similarities[-1] < at_least)
        if nearest is not None or all_found:
            break
        wanted *= 4
    count = len(hits.ids) if at_least is None else int(np.count_nonzero(hits.similarities >= at_least))
    if not count:
        best = f"the nearest has {hits.similarities[0]:.4f}" if len(hits.ids) else "the index has no rows"
        raise SelectError(f"No row has a similarity of at least {at_least} to the query: {best}.")
    order = np.argsort(hits.ids[:count])
    return NearRows(hits.ids[:count][order], order.astype(np.int64) + 1, hits.similarities[:count][order])
