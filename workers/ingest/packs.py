"""Packs read, hashed, joined, held against the filter and shuffled: what may be done ahead, without the tracker.

Invariant: every job is in a run's packs or among the unreadable ones, whose packs spoil no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataset.formats.packs import LIST_PACK_SCHEMA
from dataset.formats.url_hashes import Hashes, url_hashes
from dataset.ingest.bloom import BloomFilter
from dataset.ingest.shuffle import Mask, Shuffled, join_packs, number_rows, shuffled_rows
from dataset.store.store import StoreError
from tracker.protocol.session import Job
from workers.runtime.context import WorkContext

COLUMNS = ("url", "text", "language", "subset", "extra")  # extra: where the pack has it
EXTRA = LIST_PACK_SCHEMA.field("extra")


@dataclass(frozen=True, slots=True)
class RunPacks:
    """The packs of one run, one after the other."""

    run_id: int
    jobs: Sequence[Job]
    sizes: Sequence[int]
    """Rows, by job."""
    rows: pa.Table
    hashes: Hashes

    def split(self) -> Sequence[slice]:
        """Each job's rows."""
        ends = np.cumsum(self.sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]


@dataclass(frozen=True, slots=True)
class ReadPacks:
    runs: Sequence[RunPacks]
    unreadable: Sequence[tuple[Job, str]]
    """Jobs whose pack could not be read, and why."""


@dataclass(frozen=True, slots=True)
class NewRows:
    """What goes to the pool of one run's packs."""

    packs: RunPacks
    new: Mask
    """(N,) bool over the packs' rows: those that go."""
    mixed: Shuffled


@dataclass(frozen=True, slots=True)
class Picked:
    """What goes to the pool of packs that were read, by what a filter knew."""

    runs: Sequence[NewRows]
    new_keys: Hashes
    """(K,) uint64, to be added to the filter: each once, and none that it knew."""
    asked: BloomFilter
    keys_then: int
    """How many keys the filter had when it was asked."""

    def holds_for(self, known: BloomFilter) -> bool:
        """Say whether this filter was asked, and has learnt nothing since."""
        return self.asked is known and self.keys_then == known.count


def read_packs(held: Sequence[Job], context: WorkContext) -> ReadPacks:
    """Read the packs of these jobs.

    Raises: Stopped between two packs; ShuffleError when packs cannot be one table.
    """
    by_run: dict[int, list[tuple[Job, pa.Table]]] = {}
    unreadable: list[tuple[Job, str]] = []
    for job in held:
        try:
            pack = context.store.read_table(f"{job.payload['path']}.parquet", COLUMNS)
        except StoreError as error:
            unreadable.append((job, str(error)))
            continue
        context.step(len(pack))
        by_run.setdefault(job.run_id, []).append((job, number_rows(pack, job.payload["pack"])))
    return ReadPacks([_joined(run_id, by_run[run_id], context) for run_id in sorted(by_run)], unreadable)


def pick_new(read: ReadPacks, known: BloomFilter) -> Picked:
    """Pick the rows that the filter does not know, or whose job keeps duplicates, and shuffle those of each run."""
    keys_then = known.count  # before it is asked: what it learns meanwhile makes the answer worthless
    hashes = np.concatenate([np.empty(0, np.uint64), *(run.hashes for run in read.runs)])
    first_seen = known.first_seen(hashes)
    ends = np.cumsum([len(run.hashes) for run in read.runs], dtype=np.intp)
    parts = np.split(first_seen.copy(), ends)[:-1]  # behind the last end is nothing
    runs = [_picked(run, new) for run, new in zip(read.runs, parts, strict=True)]
    return Picked(runs, hashes[first_seen], known, keys_then)


def _picked(run: RunPacks, new: Mask) -> NewRows:
    for job, rows in zip(run.jobs, run.split(), strict=True):
        new[rows] |= job.payload.get("keep_duplicates", False)
    return NewRows(run, new, shuffled_rows([run.rows], [new], "subset", seed=run.jobs[0].job_id))


def hash_rows(rows: pa.Table, context: WorkContext) -> Hashes:
    """Hash rows as this swarm's filter knows them, by URL or by URL and language."""
    return url_hashes(rows["url"], rows["language"] if context.session.settings["bloom_language"] else None)


def _joined(run_id: int, read: Sequence[tuple[Job, pa.Table]], context: WorkContext) -> RunPacks:
    packs = [pack for _, pack in read]
    rows = join_packs(_alike(packs))
    return RunPacks(run_id, [job for job, _ in read], [len(pack) for pack in packs], rows, hash_rows(rows, context))


def _alike(packs: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """Packs of one schema: beside a list's, which have `extra`, a crawl's have it empty."""
    if len({pack.num_columns for pack in packs}) == 1:
        return packs
    return [
        pack if "extra" in pack.column_names else pack.append_column(EXTRA, pa.array([""] * len(pack), pa.string()))
        for pack in packs
    ]
