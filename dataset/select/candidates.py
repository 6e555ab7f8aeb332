"""Rows that match, on disk as records of 36 bytes, and the cuts that need all of them: per host, share, sample.

Each row has a priority, 64 bits that depend only on its id and the seed; if only some of several rows are kept, these
are the rows with the lowest priorities. So a selection does not depend on the order in which rows are read.
"""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

RECORD = np.dtype([("id", "<i8"), ("priority", "<u8"), ("score", "<u8"), ("host", "<u8"), ("value", "<u4")])
Records = npt.NDArray[np.void]
Mask = npt.NDArray[np.bool_]

_CHUNK = 1 << 20
_BINS = 1 << 16


class Candidates:
    """Records in a temporary file, sorted by id, and which of them are still kept."""

    def __init__(self, memory_bytes: int) -> None:
        self._file, self._marks = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # as long as this
        self._rows_at_once = max(_CHUNK, memory_bytes // (4 * RECORD.itemsize))
        self.rows = 0
        self.kept: Mask = np.empty(0, bool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._marks.close()

    def append(self, records: Records) -> None:
        """Append records."""
        self._file.write(records.tobytes())
        self.rows += len(records)

    def finish(self) -> None:
        """Keep all that were appended."""
        self._file.flush()
        if self.rows:
            self.kept = np.memmap(self._marks, bool, "w+", shape=(self.rows,))
            self.kept[:] = True

    def ids(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """Return the ids of the records of a range that are kept."""
        found: npt.NDArray[np.int64] = self._records()["id"][start:end][self.kept[start:end]]
        return found

    def cut_per_host(self, most: int) -> None:
        """Keep at most this number of rows of each host."""
        if not self.rows:
            return
        parts = -(-self.rows // self._rows_at_once)
        records = self._records()
        for part in range(parts):
            at = np.concatenate([start + np.flatnonzero(kept & (some["host"] % parts == part))
                                 for start, some, kept in self._chunks(records)])  # fmt: skip
            hosts, priorities = records["host"][at], records["priority"][at]
            order = np.lexsort((priorities, hosts))
            first = np.concatenate(([True], hosts[order][1:] != hosts[order][:-1])) if len(order) else np.empty(0, bool)
            begins = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0)) if len(order) else order
            self.kept[at[order[np.arange(len(order)) - begins >= most]]] = False

    def cut_to_share(self, share: float) -> None:
        """Keep the share of rows with the lowest scores; rows with the same score are kept or dropped together."""
        wanted = round(share * int(np.count_nonzero(self.kept)))
        self._cut("score", [wanted], by_value=False)

    def sample(self, wanted: int, values: int) -> None:
        """Keep this number of rows; with `values` > 1, the same number of each value, or all if a value has fewer."""
        counts = np.zeros(values, np.int64)
        for _, some, kept in self._chunks(self._records()):
            counts += np.bincount(some["value"][kept], minlength=values)[:values]
        self._cut("priority", balanced(counts, wanted), by_value=True)

    def _cut(self, name: str, wanted: Sequence[int] | npt.NDArray[np.int64], *, by_value: bool) -> None:
        """Keep, for each value, the `wanted` rows with the lowest numbers in a column, and those equal to the last of
        them.
        """
        records, values = self._records(), len(wanted)
        bins = np.zeros((values, _BINS), np.int64)
        for _, some, kept in self._chunks(records):
            group = some["value"][kept].astype(np.int64) if by_value else 0
            np.add.at(bins, (group, (some[name][kept] >> np.uint64(48)).astype(np.int64)), 1)
        ends = np.cumsum(bins, axis=1)
        last = np.array([np.searchsorted(ends[value], wanted[value]) for value in range(values)])
        found: list[list[npt.NDArray[np.uint64]]] = [[] for _ in range(values)]
        for _, some, kept in self._chunks(records):
            some = some[kept]
            group = some["value"].astype(np.int64) if by_value else np.zeros(len(some), np.int64)
            border = (some[name] >> np.uint64(48)).astype(np.int64) == last[group]
            for value in np.unique(group[border]):
                found[value].append(some[name][border & (group == value)])
        limits, none = np.zeros(values, np.uint64), np.zeros(values, bool)
        for value in range(values):
            before = int(ends[value, last[value] - 1]) if 0 < last[value] <= _BINS else 0
            border_rows = np.sort(np.concatenate([np.empty(0, np.uint64), *found[value]]))
            need = int(wanted[value]) - before
            none[value] = wanted[value] <= 0
            limits[value] = border_rows[min(need, len(border_rows)) - 1] if len(border_rows) else np.uint64(2**64 - 1)
        for start, some, kept in self._chunks(records):
            group = some["value"].astype(np.int64) if by_value else np.zeros(len(some), np.int64)
            self.kept[start : start + len(some)] = kept & (some[name] <= limits[group]) & ~none[group]

    def _chunks(self, records: Any) -> Iterator[tuple[int, Any, Mask]]:
        for start in range(0, self.rows, _CHUNK):
            yield start, records[start : start + _CHUNK], self.kept[start : start + _CHUNK]

    def _records(self) -> Any:
        return np.memmap(self._file, RECORD, "r") if self.rows else np.empty(0, RECORD)


def balanced(counts: npt.NDArray[np.int64], wanted: int) -> npt.NDArray[np.int64]:
    """Return how many rows to keep of each value: the same number, or all if a value has fewer; the sum is `wanted`."""
    shares = np.zeros(len(counts), np.int64)
    left = min(wanted, int(counts.sum()))
    while left:
        open_values = np.flatnonzero(shares < counts)
        each, rest = divmod(left, len(open_values))
        more = np.full(len(open_values), each, np.int64)
        more[:rest] += 1
        more = np.minimum(more, counts[open_values] - shares[open_values])
        shares[open_values] += more
        left -= int(more.sum())
    return shares


def priorities(ids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Return 64 well-mixed bits of each id and the seed (splitmix64); different ids have different ones."""
    with np.errstate(over="ignore"):
        mixed = ids.view(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def descending(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Return numbers that are in the opposite order of floats; NaN counts as lowest."""
    clean = np.where(np.isnan(values), -np.inf, values) + 0.0
    bits = clean.view(np.uint64)
    ascending = np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))
    found: npt.NDArray[np.uint64] = ~ascending
    return found
