"""The range phase: choose the rows of a range of hashes that are published, and their order.

    rows with the same hash ─▶ the best similarity, then the first input, then the smallest key hash in ids/ of an
    earlier batch ─▶ the published row stays

Only keys are read. The result contains for each subset the positions of the rows to take from the runs' sections,
joined in the order of the runs, so the file phase does not sort or compare.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.releases import SUBSETS
from dataset.formats.sorted_hashes import SortedHashes
from dataset.publish.plan import Work
from dataset.publish.record_file import Records
from dataset.publish.screens import EMAIL, PHONE
from dataset.publish.sections import range_start
from dataset.publish.uniqueness import read_losers

DUPLICATE = "duplicate"
COLLISION = "collision"
PUBLISHED_BEFORE = "published_before"

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SCHEMA = pa.schema([("hash", pa.int64()), ("take", pa.int32())])


@dataclass(frozen=True, slots=True)
class RangeRows:
    """Keys of all runs in a range, run after run and subset after subset, and the position of each row."""

    keys: Records
    subset: Integers
    """Position in SUBSETS."""
    input: Integers
    position: Integers
    """Position among the rows of this range and subset, over all runs."""
    group: Integers
    row: Integers
    """Row number in the group's run."""

    def take(self, keep: Mask) -> "RangeRows":
        """Return the rows to keep."""
        return RangeRows(**{field.name: getattr(self, field.name)[keep] for field in fields(self)})


def write_range(work: Work, at: int) -> dict[str, object]:
    """Decide a range, and return its counts: rows by subset, dropped rows by reason, contacts in published rows."""
    rows, dropped = _drop_losers(work, at, _read_keys(work, at))
    order, collisions, duplicates = choose_best(rows)
    new = order[~_published_before(work, rows.keys["hash"][order], at)]
    subsets = [new[rows.subset[new] == number] for number in range(len(SUBSETS))]
    with work.store.write(work.path(f"ranges/{at:06d}.arrow")) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for chosen in subsets:
            columns = [rows.keys["hash"][chosen], rows.position[chosen].astype(np.int32)]
            writer.write_batch(pa.record_batch([pa.array(column) for column in columns], schema=_SCHEMA))
    contacts = rows.keys["contacts"][new]
    return {
        "rows": [len(chosen) for chosen in subsets],
        "dropped": dropped
        | {
            DUPLICATE: duplicates,
            COLLISION: collisions,
            PUBLISHED_BEFORE: len(order) - len(new),
        },
        "contacts": {"email": int((contacts & EMAIL > 0).sum()), "phone": int((contacts & PHONE > 0).sum())},
    }


def read_range(work: Work, at: int, subset: int) -> tuple[Integers, Integers]:
    """Return the published hashes of a range and subset, sorted, and the rows to take, two (N,) int64."""
    with work.store.open_input(work.path(f"ranges/{at:06d}.arrow")) as file:
        batch = pa.ipc.open_file(file).get_batch(subset)
    return batch["hash"].to_numpy(), batch["take"].to_numpy().astype(np.int64)


def choose_best(rows: RangeRows) -> tuple[Integers, int, int]:
    """Return the positions of the best row of each hash, sorted by hash, and the numbers of dropped rows: (order,
    collisions, duplicates).

    A dropped row has the same hash as a better row; it is a collision if the pairs differ, otherwise a duplicate.
    """
    keys = rows.keys
    order = np.argsort(keys["hash"], kind="stable")
    hashes = keys["hash"][order]
    again = np.concatenate(([False], hashes[1:] == hashes[:-1]))
    if not again.any():
        return order, 0, 0
    tied = again | np.concatenate((again[1:], [False]))
    among = order[tied]
    order[tied] = among[np.lexsort((keys["key"][among], rows.input[among], -keys["similarity"][among],
                                    keys["hash"][among]))]  # fmt: skip
    best = order[~again]
    winner = best[np.cumsum(~again) - 1]
    other = keys["fingerprint"][order] != keys["fingerprint"][winner]
    collisions = int(other.sum())
    return best, collisions, int(again.sum()) - collisions


def _read_keys(work: Work, at: int) -> RangeRows:
    found = [work.run_file(group).read_keys(at) for group in range(sum(work.plan.groups))]
    counts = np.diff(np.array([ends for _, ends in found]))  # (groups, subsets)
    before = np.cumsum(counts, axis=0) - counts
    lengths = counts.ravel()
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = counts.sum(axis=1)
    first_rows = np.array([ends[0] for _, ends in found])
    return RangeRows(
        keys=np.concatenate([keys for keys, _ in found]),
        subset=np.repeat(np.tile(np.arange(len(SUBSETS)), len(found)), lengths),
        input=np.repeat(np.array(work.group_inputs), rows),
        position=np.repeat(before.ravel(), lengths) + within,
        group=np.repeat(np.arange(len(found)), rows),
        row=np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows - first_rows, rows),
    )


def _drop_losers(work: Work, at: int, rows: RangeRows) -> tuple[RangeRows, dict[str, int]]:
    """Drop rows if a better row has the same URL or picture, and count them by reason."""
    keep, dropped = np.ones(len(rows.keys), bool), {}
    for by, losers in read_losers(work, at):
        # Both are sorted by (group, row), so with each pair as one number a bisection finds it.
        known = rows.group << 32 | rows.row
        lost = np.zeros(len(keep), bool)
        lost[np.searchsorted(known, losers["group"].astype(np.int64) << 32 | losers["row"])] = True
        dropped[by.reason] = int((lost & keep).sum())
        keep &= ~lost
    return (rows if keep.all() else rows.take(keep)), dropped


def _published_before(work: Work, hashes: Integers, at: int) -> Mask:
    found = np.zeros(len(hashes), bool)
    start, end = range_start(at, work.plan.ranges), range_start(at + 1, work.plan.ranges)
    for path in work.plan.earlier:
        known = SortedHashes(work.release_store, path).read(start, end)
        if len(known):
            found |= known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes
    return found
