"""Read packs, select the rows that are new, and shuffle them: the part of the work that does not need the tracker.

Invariant: every job is either in a run's packs or among the unreadable ones; an unreadable pack does not affect others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.packs import LIST_PACK_SCHEMA
from dataset.formats.url_hashes import Hashes, url_hashes
from dataset.ingest.bloom import BloomFilter
from dataset.ingest.shuffle import Mask, Shuffled, join_packs, number_rows, shuffled_rows
from dataset.safety.hash_lists import HashLists
from dataset.store.store import StoreError
from tracker.protocol.session import Job
from workers.runtime.context import WorkContext

COLUMNS = ("url", "text", "language", "subset", "extra")  # only packs of link lists have extra
EXTRA = LIST_PACK_SCHEMA.field("extra")


@dataclass(frozen=True, slots=True)
class RunPacks:
    """The packs of one run, concatenated."""

    run_id: int
    jobs: Sequence[Job]
    sizes: Sequence[int]
    """Rows of each job."""
    rows: pa.Table
    hashes: Hashes
    denied: Mask
    """(N,) bool: rows on a deny list, which never go to the pool."""

    def job_slices(self) -> Sequence[slice]:
        """Return the rows of each job."""
        ends = np.cumsum(self.sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]


@dataclass(frozen=True, slots=True)
class ReadPacks:
    runs: Sequence[RunPacks]
    unreadable: Sequence[tuple[Job, str]]
    """Jobs whose pack could not be read, each with the reason."""


@dataclass(frozen=True, slots=True)
class NewRows:
    """The rows of one run's packs that go to the pool."""

    packs: RunPacks
    new: Mask
    """(N,) bool over the packs' rows."""
    shuffled: Shuffled


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that go to the pool, according to one filter at one time."""

    runs: Sequence[NewRows]
    new_keys: Hashes
    """(K,) uint64, distinct, all unknown to the filter; to be added to it."""
    asked: BloomFilter
    keys_then: int
    """The number of keys in the filter when it was queried."""

    def is_valid_for(self, known: BloomFilter) -> bool:
        """Return whether the answer is still valid: same filter, no keys added since."""
        return self.asked is known and self.keys_then == known.count


def read_packs(held: Sequence[Job], context: WorkContext, restricted: HashLists) -> ReadPacks:
    """Read the packs of these jobs, and compare their rows with the lists in force.

    Raises: Stopped between two packs; ShuffleError when the packs cannot form one table.
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
    return ReadPacks([_joined(run_id, by_run[run_id], context, restricted) for run_id in sorted(by_run)], unreadable)


def select_new(read: ReadPacks, known: BloomFilter) -> Selection:
    """Select the rows that the filter does not know or whose job keeps duplicates, and shuffle those of each run.

    Rows on a deny list are left out.
    """
    keys_then = known.count  # read before the query, because keys that are added during it make the answer invalid
    hashes = np.concatenate([np.empty(0, np.uint64), *(run.hashes for run in read.runs)])
    first_seen = known.first_seen(hashes)
    ends = np.cumsum([len(run.hashes) for run in read.runs], dtype=np.intp)
    masks = np.split(first_seen.copy(), ends)[:-1]  # the slice after the last end is empty
    runs = [_selected(run, new) for run, new in zip(read.runs, masks, strict=True)]
    return Selection(runs, hashes[first_seen], known, keys_then)


def _selected(run: RunPacks, new: Mask) -> NewRows:
    for job, rows in zip(run.jobs, run.job_slices(), strict=True):
        new[rows] |= job.payload.get("keep_duplicates", False)
    new &= ~run.denied
    return NewRows(run, new, shuffled_rows([run.rows], [new], seed=run.jobs[0].job_id))


def hash_rows(rows: pa.Table, context: WorkContext) -> Hashes:
    """Return the filter's keys of rows: of the URL, or of URL and language if `bloom_language` is set."""
    return url_hashes(rows["url"], rows["language"] if context.session.settings["bloom_language"] else None)


def _joined(run_id: int, read: Sequence[tuple[Job, pa.Table]], context: WorkContext, restricted: HashLists) -> RunPacks:
    packs = [pack for _, pack in read]
    rows = join_packs(_of_one_schema(packs))
    jobs, sizes = [job for job, _ in read], [len(pack) for pack in packs]
    return RunPacks(run_id, jobs, sizes, rows, hash_rows(rows, context), _denied(rows, restricted))


def _denied(rows: pa.Table, restricted: HashLists) -> Mask:
    """Return which rows are on a list, or were blanked in their pack -> (N,) bool."""
    if restricted.has_links:
        return restricted.named_links(rows["url"].to_pylist(), rows["text"].to_pylist())
    blank: Mask = pc.equal(rows["url"], "").to_numpy()
    return blank


def _of_one_schema(packs: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """Return the packs with one schema: a crawl's packs get an empty `extra` if a link list's are among them."""
    if len({pack.num_columns for pack in packs}) == 1:
        return packs
    return [
        pack if "extra" in pack.column_names else pack.append_column(EXTRA, pa.array([""] * len(pack), pa.string()))
        for pack in packs
    ]
