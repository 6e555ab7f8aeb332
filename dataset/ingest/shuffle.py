"""Shuffle several packs together before COPY, so that each page of the pool holds candidates of many hosts.

A draw is as mixed as the pool's pages, and a page keeps the order of COPY. Neighbours in a pack come from one web page,
so all rows of all packs are shuffled together, and every order is equally likely.

Invariant: each row that goes in comes out once and unchanged, and a seed gives one order.

Rejected: shuffling each pack alone (a page of 40 rows would still come from one WAT file); keeping runs of rows
together (shuffling 200,000 single rows takes 0.1 s, their COPY 0.2 s); moving rows once for each of filtering,
shuffling and splitting by subset (0.36 s for 560,000 rows; `shuffled_rows` moves them once).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.errors import DatasetError

# Arrow's string columns have 32-bit offsets.
MAX_COLUMN_BYTES = 2**31 - 1


Mask = npt.NDArray[np.bool_]


class ShuffleError(DatasetError):
    """Packs cannot be shuffled together."""


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Rows of several packs, and the shuffled order of each subset's row numbers. Safe to read from several threads."""

    table: pa.Table
    rows: Mapping[str, npt.NDArray[np.intp]]

    def subset(self, subset: str, start: int = 0, end: int | None = None) -> pa.Table:
        """Return rows `start` to `end` of a subset in shuffled order, without the column `subset`."""
        return self.table.take(pa.array(self.rows.get(subset, np.empty(0, np.intp))[start:end]))


def number_rows(table: pa.Table, pack: int) -> pa.Table:
    """Prepend the columns `pack` int64 and `pack_row` int32, which identify a candidate everywhere."""
    table = table.add_column(0, "pack", pa.array(np.full(len(table), pack, np.int64)))
    return table.add_column(1, "pack_row", pa.array(np.arange(len(table), dtype=np.int32)))


def shuffled_rows(tables: Sequence[pa.Table], keep: Sequence[Mask], seed: int) -> Shuffled:
    """Shuffle the rows of all packs that `keep` marks, each subset by itself; every order is equally likely.

    No row is copied here; `Shuffled.subset` copies the rows that it returns.

    Raises:
        ShuffleError: there is no pack, the packs differ in schema, or they are too large for one table.
    """
    table = join_packs(tables)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(np.concatenate(keep)))
    subsets = table["subset"].combine_chunks().dictionary_encode()
    codes = subsets.indices.to_numpy(zero_copy_only=False)[order]
    table = table.drop_columns(["subset"])
    return Shuffled(table, {name: order[codes == code] for code, name in enumerate(subsets.dictionary.to_pylist())})


def join_packs(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate packs, each column in one chunk. This copies; a table that is already joined is not copied again.

    Raises: ShuffleError as `shuffled_rows`.
    """
    if not tables:
        raise ShuffleError("there is nothing to shuffle; give at least one pack")
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise ShuffleError("packs of different schemas cannot be shuffled together; extract them again") from error
    for name in table.column_names:
        if table[name].nbytes > MAX_COLUMN_BYTES:
            raise ShuffleError(f"column {name} of these packs is larger than 2 GiB; shuffle fewer packs together")
    return table.combine_chunks()
