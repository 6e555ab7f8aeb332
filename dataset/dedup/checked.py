"""What searches have checked, so that a later batch does not check it again.

    dedup/NAME/{model}/checked/S   digest    of each batch: its embeddings' record, its rows, who represents them
                                   members   of each batch: members that were compared, and their lowest cosine
                                   below     the sampled representatives have a mixed id below this
                                   missed    nodes of those that have another representative in S at the threshold

A batch is unchanged if its digests are equal in all super-cells. Then its members and their representatives are those
that were compared, and so are the embeddings, by the record of their files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.dedup.arrays import Array, write_arrays
from dataset.dedup.work import Work

Integers = npt.NDArray[np.int64]

NAME = "checked"


@dataclass(frozen=True, slots=True)
class Checked:
    """The results of a super-cell."""

    members: Integers
    """(batches, 2): how many were compared, and the lowest cosine in steps."""
    below: np.uint64
    missed: Integers

    def write(self, work: Work, super_cell: int) -> None:
        """Keep the results for later batches."""
        arrays = {"digest": work.open("end", "members", super_cell).read("digest"), "members": self.members,
                  "below": np.array([self.below], np.uint64), "missed": self.missed}  # fmt: skip
        write_arrays(work.store, work.path(NAME, super_cell), arrays)


def digest_of(work: Work, batch: int, arrays: Sequence[Array]) -> Array:
    """Return what tells whether a batch's rows in a super-cell are the same -> (32,) uint8."""
    found = hashlib.sha256(work.plan.batches[batch].sha256.encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return np.frombuffer(found.digest(), np.uint8)


def unchanged_batches(work: Work) -> int:
    """Return how many batches, from the first on, are as an earlier search has checked them."""
    count = work.plan.new_from
    for super_cell in range(work.plan.super_cells):
        if not count or not work.store.exists(work.path(NAME, super_cell)):
            return 0
        known = work.open(NAME, super_cell).read("digest")[:count]
        now = work.open("end", "members", super_cell).read("digest")[: len(known)]
        count = int(np.argmin([*(known == now).all(axis=1), False]))
    return count


def read_checked(work: Work, super_cell: int, batches: int) -> Checked:
    """Return what was found in a super-cell for the first `batches` batches; nothing for none."""
    if not batches:
        return Checked(np.empty((0, 2), np.int64), np.uint64(0), np.empty(0, np.int64))
    opened = work.open(NAME, super_cell)
    return Checked(opened.read("members")[:batches], np.uint64(opened.read("below")[0]), opened.read("missed"))
