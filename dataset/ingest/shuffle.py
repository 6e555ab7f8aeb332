"""The shuffle before COPY: several packs together, so that a page of the pool holds candidates of many hosts.

A draw is as mixed as the pool's pages, and a page keeps the order of COPY. Neighbours in a pack come from one web page,
so every row of all packs takes a place at random: each order is as likely as any other.

Invariant: the rows that go in come out, each once and whole, and a seed gives one order.

Rejected: shuffling each pack alone (a pool page of 40 rows would still be one WAT file's), and keeping runs of rows
together: one by one, 200,000 rows take 0.1 s, and their COPY 0.2 s. Dropping the rows that are not new, then shuffling,
then parting by subset moved 560,000 rows three times, in 0.36 s; `shuffled_rows` moves them once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.errors import DatasetError

# Arrow's string columns address their bytes with 32 bits.
MAX_COLUMN_BYTES = 2**31 - 1


Mask = npt.NDArray[np.bool_]


class ShuffleError(DatasetError):
    """Packs that cannot be shuffled together."""


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Rows of several packs, and the shuffled order of each subset's row numbers. Safe to read from several threads."""

    table: pa.Table
    rows: Mapping[str, npt.NDArray[np.intp]]

    def subset(self, subset: str, start: int = 0, end: int | None = None) -> pa.Table:
        """Return rows `start` to `end` of a subset in shuffled order, without the column `subset`."""
        return self.table.take(pa.array(self.rows.get(subset, np.empty(0, np.intp))[start:end]))


def number_rows(table: pa.Table, pack: int) -> pa.Table:
    """Put the columns `pack` int64 and `pack_row` int32 before a pack's own: they name a candidate wherever it goes."""
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
    """Put packs one after the other, each column in one chunk, which costs a copy; a table joined before costs none.

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
