"""The most frequent captions and hosts with their exact counts.

Candidates are the most frequent of the merged summaries. A unit's summary contains most of them, with exact counts.
Units that dropped some of them, or have one whose text is unknown, are read again, but only the column that is needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dataset.stats.columns import string_column
from dataset.stats.counts import FREQUENT, Counts
from dataset.stats.frequent import Frequent
from dataset.stats.hashing import ByteRanges, Hashes, Ints, hash_ranges, texts_of
from dataset.stats.hosts import host_hashes, host_of
from dataset.stats.threads import map_in_order
from dataset.stats.units import Unit, read_batches
from dataset.store.store import Store

SHOWN = 100
CANDIDATES = 2 * SHOWN
SOURCE = {"TEXT": "TEXT", "host": "URL"}
"""The column from which each of FREQUENT is read."""

ALL = "all"
"""The scope of all subsets together."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The most frequent values in order; a value that is not listed has at most `others_at_most` rows."""

    values: tuple[tuple[str, int], ...]
    others_at_most: int


@dataclass(frozen=True, slots=True)
class Recounted:
    """Counts (M,) of hashes (M,) in a unit, and the texts of those that were seen."""

    unit: Unit
    hashes: Hashes
    counts: Ints
    texts: Mapping[int, str]


def list_frequent(
    store: Store,
    scopes: Mapping[str, Counts],
    units: Iterable[Unit],
    held: Sequence[Mapping[str, Frequent]],
    threads: int | None = None,
) -> dict[str, dict[str, Listed]]:
    """Return the listed values for each scope (a subset, or ALL) and column; `held` are the units' summaries by column.

    Raises: StoreError when a file that must be read again is missing.
    """
    listed: dict[str, dict[str, Listed]] = {scope: {} for scope in scopes}
    for column in FREQUENT:
        summaries = {scope: counts.frequent[column] for scope, counts in scopes.items()}
        wanted = np.unique(np.array([each for one in summaries.values() for each in _candidates(one)], np.uint64))
        texts = {each: text for one in summaries.values() for each, text in one.texts.items()}
        is_named = np.array([each in texts for each in wanted.tolist()], np.bool_)
        exact: dict[str, Ints] = {scope: np.zeros(len(wanted), np.int64) for scope in scopes}
        again: list[tuple[Unit, Hashes]] = []
        for unit, frequent in zip(units, held, strict=True):
            summary = frequent[column]
            is_held = np.isin(wanted, summary.hashes)
            is_known = is_held & is_named
            found = np.zeros(len(wanted), np.int64)
            found[is_known] = summary.counts[np.searchsorted(summary.hashes, wanted[is_known])]
            _add(exact, unit.subset, found)
            unknown = ~is_known if summary.missed else is_held & ~is_named
            if unknown.any():
                again.append((unit, wanted[unknown]))
        for recounted in map_in_order(partial(_recount, store, SOURCE[column]), again, threads):
            found = np.zeros(len(wanted), np.int64)
            found[np.searchsorted(wanted, recounted.hashes)] = recounted.counts
            _add(exact, recounted.unit.subset, found)
            texts.update(recounted.texts)
        for scope, summary in summaries.items():
            listed[scope][column] = _listed(summary, wanted, exact[scope], texts)
    return listed


def _candidates(summary: Frequent) -> list[int]:
    """Return the hashes that may be listed; if values were dropped, a value that occurs once is not frequent."""
    return [each for each, _, count in summary.top(CANDIDATES) if count > 1 or not summary.missed]


def _add(exact: Mapping[str, Ints], subset: str, found: Ints) -> None:
    for scope in {subset, ALL} & exact.keys():
        exact[scope] += found


def _listed(summary: Frequent, wanted: Hashes, exact: Ints, texts: Mapping[int, str]) -> Listed:
    order = np.lexsort((wanted, -exact))
    shown = [row for row in order[:SHOWN] if exact[row] > 0]
    others = summary.counts[~np.isin(summary.hashes, wanted)]
    unseen = int(others.max(initial=0)) + summary.missed
    next_one = int(exact[order[SHOWN]]) if len(order) > SHOWN else 0
    return Listed(
        tuple((texts[int(wanted[row])], int(exact[row])) for row in shown if int(wanted[row]) in texts),
        max(unseen, next_one),
    )


def _recount(store: Store, source: str, wanted: tuple[Unit, Hashes]) -> Recounted:
    """Count some hashes of captions or hosts in a unit."""
    unit, hashes = wanted
    counts = np.zeros(len(hashes), np.int64)
    texts: dict[int, str] = {}
    for piece in unit.pieces:
        for batch in read_batches(store, piece, [source]):
            if source not in batch.names:
                continue
            strings = string_column(batch.rows.column(batch.names[source]), source).drop_null()
            if source == "URL":
                found, rows = host_hashes(strings)
            else:
                found, rows = hash_ranges(ByteRanges.of(strings)), np.arange(len(strings), dtype=np.int64)
            place = np.searchsorted(hashes, found).clip(0, len(hashes) - 1)
            hits = np.flatnonzero(hashes[place] == found)
            counts += np.bincount(place[hits], minlength=len(hashes))
            for at in np.flatnonzero(counts):
                if int(hashes[at]) not in texts:
                    (value,) = texts_of(strings.slice(int(rows[hits[place[hits] == at][0]]), 1))
                    texts[int(hashes[at])] = host_of(value) if source == "URL" else value
    return Recounted(unit, hashes, counts, texts)
