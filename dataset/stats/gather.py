"""From files to counts: units are counted in threads and merged in their order.

Memory: a batch of rows and the hashes of one unit per thread, one `Counts` per subset, and 32 kB per unit, from which
it is known later which units must be read again for the most frequent captions and hosts. Memory does not grow with the
rows of a unit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from dataset.errors import said_by
from dataset.stats.columns import ColumnError, find_columns
from dataset.stats.counts import Counts
from dataset.stats.frequent import Frequent
from dataset.stats.listed import ALL, Listed, list_frequent
from dataset.stats.rows import RowCounter
from dataset.stats.saved import SavedCountsError, bytes_to_counts, counts_to_bytes
from dataset.stats.tagged import with_tags
from dataset.stats.threads import map_in_order
from dataset.stats.units import StatsError, Unit, read_unit
from dataset.store.store import Store, StoreError


@dataclass(frozen=True, slots=True)
class Gathered:
    """The counts by subset and of ALL together, and the most frequent values by subset and column."""

    counts: Mapping[str, Counts]
    listed: Mapping[str, Mapping[str, Listed]]
    units: int
    units_counted: int
    """Units whose counts were not saved before."""


def gather(
    store: Store,
    units: Iterable[Unit],
    *,
    save: bool = False,
    threads: int | None = None,
    on_unit: Callable[[], None] = lambda: None,
) -> Gathered:
    """Count all units. Counts saved for a unit are used; with `save`, others are saved in the store.

    The units are iterated more than once, so an iterator is kept as a list: pass `PartUnits` for millions of parts.
    `on_unit` is called after each unit.

    Raises: StatsError when a file is damaged, or with `save` the store cannot be written; ColumnError when a file is a
    different kind of table; StoreError when one is missing.
    """
    scopes: dict[str, Counts] = {}
    held: list[Mapping[str, Frequent]] = []
    counted = 0
    units = list(units) if isinstance(units, Iterator) else units
    for unit, counts, was_saved in map_in_order(partial(_unit_counts, store, save), units, threads):
        scopes.setdefault(unit.subset, Counts()).add(counts)
        counted += not was_saved
        on_unit()
        held.append({name: replace(each, texts={}) for name, each in counts.frequent.items()})
    total = Counts()
    for counts in scopes.values():
        total.add(counts)
    everything = {ALL: total, **{subset: scopes[subset] for subset in sorted(scopes)}}
    return Gathered(everything, list_frequent(store, everything, units, held, threads), len(held), counted)


def count_unit(store: Store, unit: Unit) -> Counts:
    """Count the rows of a unit.

    Raises: as `gather`.
    """
    counter = RowCounter(unit.subset)
    for batch in read_unit(store, unit):
        try:
            counter.add(batch.rows, batch.names)
        except ColumnError as error:
            raise ColumnError(f"{batch.path} cannot be counted: {error}") from error
        except pa.ArrowException as error:
            raise StatsError(f"{batch.path} cannot be counted ({said_by(error)}): get it again.") from error
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
        return unit, with_tags(store, unit, saved), True
    counts = count_unit(store, unit)
    if unit.saved and save:
        try:
            store.put(unit.saved, counts_to_bytes(counts, unit.sha256))
        except StoreError as error:
            raise StatsError(f"The counts cannot be saved; use --no-save to count without saving. {error}") from error
    return unit, with_tags(store, unit, counts), False
