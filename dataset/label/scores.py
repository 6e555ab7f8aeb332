"""The present score of rows: a column of the release, or what a head says about their embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.label.journal import LabelError
from dataset.side_tables.rows import ReleaseRows
from dataset.tags.heads import SUFFIX, read_head_file

if TYPE_CHECKING:
    from dataset.index.lookup import Index

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Score:
    """A score by its name in a task: a column, TABLE.COLUMN of a side table, or the file of a head."""

    def __init__(self, name: str, rows: ReleaseRows, index: "Index | None") -> None:
        """Raises: LabelError when there is no such column of numbers; HeadError."""
        self.columns: tuple[str, ...] = ()
        """The columns of a row that are needed, besides the id."""
        self._head, self._index = None, index
        if name.endswith(SUFFIX):
            if index is None:
                raise LabelError(f"{name} reads embeddings: build the release's index with dataset index build.")
            self._head = read_head_file(Path(name)).head()
            return
        schema = rows.schema
        kinds = [schema.field(one).type for one in schema.names if one == name]
        if not kinds or not (pa.types.is_floating(kinds[0]) or pa.types.is_integer(kinds[0])):
            raise LabelError(f"The release has no column of numbers {name!r}: name one, or a file NAME{SUFFIX}.")
        self.columns = (name,)

    def of(self, rows: pa.Table) -> Floats:
        """Return the scores of rows with `id` and `columns`, (N,) float64; NaN for a row without one."""
        if self._head is None:
            values = rows[self.columns[0]].cast(pa.float64())
            return np.asarray(pc.fill_null(values, float("nan")).to_numpy(), np.float64)
        assert self._index is not None
        vectors = self._index.embeddings(rows["id"].to_numpy()).astype(np.float32)
        found = self._head.score(vectors).astype(np.float64)
        found[~vectors.any(axis=1)] = np.nan
        return found


def rows_of(rows: ReleaseRows, ids: Integers, columns: Sequence[str]) -> pa.Table:
    """Return `id` and columns of the rows with these ids that are there, in the order of their ids."""
    wanted = np.unique(ids)
    names = ["id", *columns]
    found = [pa.schema([rows.schema.field(name) for name in names]).empty_table()]
    for group in rows.row_groups():
        first, last = rows.id_bounds(group)
        low, high = np.searchsorted(wanted, (first, last + 1))
        if low < high:
            table = rows.read(group, names)
            found.append(table.filter(pc.is_in(table["id"], pa.array(wanted[low:high]))).cast(found[0].schema))
    return pa.concat_tables(found)
