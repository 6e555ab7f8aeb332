"""The number of samples that a selected row becomes, and their captions: columns of the release, read by id.

Sample k of a row has the number id + k · 2^53, which determines its place in the shuffle; ids are below 2^53.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.releases import MAX_ID
from dataset.select.candidates import priorities
from dataset.select.errors import SelectError
from dataset.side_tables.rows import ReleaseRows

Integers = npt.NDArray[np.int64]

MAX_COPIES = 1_000


class ColumnReader:
    """Read a column of rows that are requested in the order of their ids."""

    def __init__(self, rows: ReleaseRows, column: str, wanted: str) -> None:
        """Check the column; `wanted` is number or caption.

        Raises: SelectError when the release has no such column, or the column has another type.
        """
        self.schema = rows.schema
        if column not in self.schema.names:
            raise SelectError(
                f"{rows.release.record.name} has no column {column}, only {', '.join(self.schema.names)}."
            )
        self.type = self.schema.field(column).type
        texts = pa.types.is_string(self.type) or self.type == pa.list_(pa.string())
        numbers = pa.types.is_integer(self.type) or pa.types.is_floating(self.type)
        if not (texts if wanted == "caption" else numbers):
            raise SelectError(f"{column} is of the type {self.type}, not a {wanted}: name another column.")
        self._rows, self._column = rows, column
        self._groups = rows.row_groups()
        self._group = pa.schema([("id", pa.int64()), (column, self.type)]).empty_table()

    def read(self, ids: Integers) -> pa.Array:
        """Return the values of rows, (N,); null for rows that were removed from the release."""
        found, start = [], 0
        while start < len(ids):
            known = self._group["id"].to_numpy()
            end = int(np.searchsorted(ids, known[-1], "right")) if len(known) else start
            if end > start:
                at = np.searchsorted(known, ids[start:end])
                places = pa.array(at, mask=known[np.minimum(at, len(known) - 1)] != ids[start:end])
                found.append(pc.take(self._group[self._column].combine_chunks(), places))
                start = end
            elif not self._next_group(int(ids[start])):
                found.append(pa.nulls(len(ids) - start, self.type))
                break
        return pa.concat_arrays([pa.nulls(0, self.type), *found])

    def _next_group(self, row_id: int) -> bool:
        """Read the next row group that may have this row or a later one; return False after the last."""
        for group in self._groups:
            if group.file.last_id >= row_id:
                self._group = self._rows.read(group, ["id", self._column])
                return True
        return False


def draw_copies(reader: ColumnReader, ids: Iterator[Integers], seed: int) -> npt.NDArray[np.uint16]:
    """Return how many samples each row becomes -> (N,) uint16.

    A row with the number 2.3 becomes three samples with a probability of 0.3, and two otherwise; a row without a number
    becomes one. The draw depends only on id and seed.

    Raises: SelectError for a number below 0 or above MAX_COPIES.
    """
    drawn = [np.empty(0, np.uint16)]
    for some in ids:
        numbers = pc.fill_null(reader.read(some).cast(pa.float64()), 1.0).to_numpy()
        numbers = np.where(np.isnan(numbers), 1.0, numbers)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= MAX_COPIES:
            raise SelectError(
                f"--copies has numbers from {numbers.min():g} to {numbers.max():g}: 0 to {MAX_COPIES:,} is possible."
            )
        # 53 of the bits, so that a float64 draw is below 1
        draws = (priorities(np.ascontiguousarray(some), seed + 1) >> np.uint64(11)).astype(np.float64) / 2**53
        drawn.append(np.floor(numbers + draws).astype(np.uint16))
    return np.concatenate(drawn)


def sample_numbers(ids: Integers, copies: npt.NDArray[np.uint16]) -> tuple[Integers, Integers]:
    """Return the row and the number of each sample -> 2 of (sum of copies,) int64."""
    rows = np.repeat(np.arange(len(ids)), copies)
    begins = np.concatenate(([0], np.cumsum(copies.astype(np.int64))))[rows]
    return rows, ids[rows] + (np.arange(len(rows)) - begins) * MAX_ID


def sample_key(sample: int) -> str:
    """Return the key of a sample's members: its id in 15 digits, and -K for copy K."""
    copy, row_id = divmod(sample, MAX_ID)
    return f"{row_id:015d}-{copy}" if copy else f"{row_id:015d}"


def choose_captions(captions: pa.Array, samples: Integers, seed: int) -> pa.Array:
    """Return the caption of each sample, (N,) strings, null if there is none.

    If a row has a list of captions, its copies get consecutive ones, beginning at a position that depends on id and
    seed.
    """
    if pa.types.is_string(captions.type):
        return captions
    lengths = pc.fill_null(pc.list_value_length(captions), 0).to_numpy().astype(np.int64)
    begins = (priorities(samples % MAX_ID, seed) >> np.uint64(32)).astype(np.int64)
    chosen = (begins + samples // MAX_ID) % np.maximum(lengths, 1)
    places = pa.array(captions.offsets.to_numpy()[:-1] + chosen, mask=lengths == 0)
    return pc.take(captions.values, places)
