"""From files to counts: units are counted by threads (numpy and Arrow release the GIL) and merged in their order.

Memory: a batch of rows and the hashes of one unit per thread, one `Counts` per subset, and 16 kB per unit to know later
which units must be read again for the most frequent captions and hosts. It does not grow with the rows of a unit.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import pyarrow as pa

from dataset.stats.columns import ColumnError, find_columns
from dataset.stats.counts import Counts
from dataset.stats.listed import ALL, Held, Listed, list_frequent
from dataset.stats.rows import RowCounter
from dataset.stats.saved import SavedCountsError, bytes_to_counts, counts_to_bytes
from dataset.stats.units import Unit, read_batches
from dataset.store.store import Store

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Gathered:
    """The counts by subset, and of ALL together, and by subset and column the most frequent values."""

    counts: Mapping[str, Counts]
    listed: Mapping[str, Mapping[str, Listed]]
    units: int
    units_counted: int
    """Units whose counts were not saved before."""


def gather(store: Store, units: Iterable[Unit], *, save: bool = False, threads: int | None = None) -> Gathered:
    """Count all units. Counts saved for a unit are used; with `save`, others are saved in the store.

    Raises: StatsError when a file is damaged; ColumnError when it is another table; StoreError when a file is missing,
    or the store cannot be written with `save`.
    """
    scopes: dict[str, Counts] = {}
    held: list[Held] = []
    counted = 0
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        run = partial(_in_order, pool, 2 * (threads or os.cpu_count() or 1))
        for unit, counts, was_saved in run(partial(_unit_counts, store, save), units):
            scopes.setdefault(unit.subset, Counts()).add(counts)
            counted += not was_saved
            held.append(Held(unit, {name: replace(each, texts={}) for name, each in counts.frequent.items()}))
        total = Counts()
        for counts in scopes.values():
            total.add(counts)
        everything = {ALL: total, **{subset: scopes[subset] for subset in sorted(scopes)}}
        listed = list_frequent(store, everything, held, run)
    return Gathered(everything, listed, len(held), counted)


def count_unit(store: Store, unit: Unit) -> Counts:
    """Count the rows of a unit.

    Raises: as `gather`.
    """
    counter = RowCounter(unit.subset)
    for piece in unit.pieces:
        for batch in read_batches(store, piece):
            try:
                counter.add(batch.rows, batch.names)
            except ColumnError as error:
                raise ColumnError(f"{piece.path} cannot be counted: {error}") from error
    return counter.finish()


def count_batches(batches: Iterable[pa.RecordBatch], subset: str) -> Counts:
    """Count rows that are in memory, named as in LAION's tables."""
    counter = RowCounter(subset)
    for batch in batches:
        counter.add(batch, find_columns(batch.schema.names, "the batch"))
    return counter.finish()


def saved_counts(store: Store, unit: Unit) -> Counts | None:
    """Return the saved counts of a unit; None if there are none, they are damaged or of an earlier version of its file.

    Raises: StoreError when the store cannot be read.
    """
    if unit.saved and store.exists(unit.saved):
        with suppress(SavedCountsError):
            return bytes_to_counts(store.read(unit.saved), unit.sha256)
    return None


def _unit_counts(store: Store, save: bool, unit: Unit) -> tuple[Unit, Counts, bool]:
    saved = saved_counts(store, unit)
    if saved is not None:
        return unit, saved, True
    counts = count_unit(store, unit)
    if unit.saved and save:
        store.put(unit.saved, counts_to_bytes(counts, unit.sha256))
    return unit, counts, False


def _in_order(
    pool: ThreadPoolExecutor, most: int, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Map a function over items in threads, `most` of them begun at a time, and yield the results in their order."""
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) >= most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
