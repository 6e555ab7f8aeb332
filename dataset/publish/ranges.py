"""The range phase: of all rows in a range of hashes, which are published, and in which order.

    rows of one hash ─▶ the best similarity, then the first input, then the smallest key
    its hash in ids/ of an earlier batch ─▶ stays as published

Only keys are read. The result says for each subset which rows to take of the runs' sections, joined in the order of
the runs, so that the file phase neither sorts nor compares.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.releases import SUBSETS
from dataset.publish.plan import Work
from dataset.publish.run_file import Keys
from dataset.publish.screens import EMAIL, PHONE
from dataset.publish.sorted_hashes import SortedHashes

DUPLICATE = "duplicate"
COLLISION = "collision"
PUBLISHED_BEFORE = "published_before"

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SCHEMA = pa.schema([("hash", pa.int64()), ("take", pa.int32())])
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True, slots=True)
class RangeRows:
    """Keys of all runs in a range, run after run and subset after subset, and where each row stands."""

    keys: Keys
    subset: Integers
    """Position in SUBSETS."""
    input: Integers
    position: Integers
    """Among the rows of this range and the row's subset, in all runs."""


def range_of(hashes: Integers, ranges: int) -> Integers:
    """Return the range of each hash: its first bits in signed order -> (N,) int64; `ranges` is a power of two."""
    if ranges == 1:
        return np.zeros(len(hashes), np.int64)
    return ((hashes.view(np.uint64) ^ _SIGN) >> np.uint64(65 - ranges.bit_length())).astype(np.int64)


def range_start(at: int, ranges: int) -> int:
    """Return the first hash of a range; of the range behind the last, 2**63."""
    return at * (2**64 // ranges) - 2**63


def write_range(work: Work, at: int) -> dict[str, object]:
    """Decide a range, and return its counts: rows by subset, dropped rows by reason, contacts in published rows."""
    rows = _read_keys(work, at)
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
        "dropped": {
            DUPLICATE: duplicates,
            COLLISION: collisions,
            PUBLISHED_BEFORE: len(order) - len(new),
        },
        "contacts": {"email": int((contacts & EMAIL > 0).sum()), "phone": int((contacts & PHONE > 0).sum())},
    }


def read_range(work: Work, at: int, subset: int) -> tuple[Integers, Integers]:
    """Return the published hashes of a range and subset, sorted, and the rows to take -> two (N,) int64."""
    with work.store.open_input(work.path(f"ranges/{at:06d}.arrow")) as file:
        batch = pa.ipc.open_file(file).get_batch(subset)
    return batch["hash"].to_numpy(), batch["take"].to_numpy().astype(np.int64)


def choose_best(rows: RangeRows) -> tuple[Integers, int, int]:
    """Return the positions of the best row of each hash, in the order of hashes, and what fell to it.

    -> (order, collisions, duplicates): rows with the same hash as a better one, of another pair and of the same.
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
    counts = np.array([counts for _, counts in found])  # (groups, subsets)
    before = np.cumsum(counts, axis=0) - counts
    lengths = counts.ravel()
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return RangeRows(
        keys=np.concatenate([keys for keys, _ in found]),
        subset=np.repeat(np.tile(np.arange(len(SUBSETS)), len(found)), lengths),
        input=np.repeat(np.array(work.group_inputs), counts.sum(axis=1)),
        position=np.repeat(before.ravel(), lengths) + within,
    )


def _published_before(work: Work, hashes: Integers, at: int) -> Mask:
    found = np.zeros(len(hashes), bool)
    start, end = range_start(at, work.plan.ranges), range_start(at + 1, work.plan.ranges)
    for path in work.plan.earlier:
        known = SortedHashes(work.release_store, path).read(start, end)
        if len(known):
            found |= known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)] == hashes
    return found
