"""Ingest: packs come in, new candidates go to the pool.

    claim packs → drop what the Bloom filter knows → shuffle → COPY and complete, in one transaction

Invariant: this worker is the only holder of its slot of the filter, and has at most one open transaction. Keys may be
added to the filter while their rows are copied, because a failure drops the filter (see `filter_slot`); a snapshot is
taken after the commit.

While Postgres copies one group of packs, a thread prepares the rows of that group piece by piece (`copy_stream`), adds
its keys to the filter, and then reads the next group, which was claimed before the COPY began (`packs`). The rows
selected in advance are used only if the same filter is still in memory; otherwise the new filter is queried. Packs
claimed in advance are leased like others: the next `claim` returns them, and a worker that leaves or loses its slot
releases them.

docs/performance.md has the measurements and what was rejected.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import trio

from dataset.ingest.bloom import BloomFilter
from tracker.errors import DatabaseDown, LeaseLost
from tracker.protocol.session import Added, Job
from workers.errors import Stopped, WorkerError
from workers.ingest.copy_stream import CopyStream
from workers.ingest.filter_slot import SlotFilter
from workers.ingest.link_list import ingest_list, is_list
from workers.ingest.packs import NewRows, ReadPacks, Selection, read_packs, select_new
from workers.runtime import metrics
from workers.runtime.context import WorkContext
from workers.runtime.hash_lists import HashListCache
from workers.runtime.loop import Stage

log = logging.getLogger("shoal.worker")

# Packs are shuffled together up to this many rows: a page of the pool has 40 rows, so each of 20 packs has two on a
# page. 500,000 candidates take about 150 MB here and as much again once they are prepared, plus the packs read ahead.
ROWS_TOGETHER = 500_000
PACKS_TOGETHER = 20

Results = list[tuple[Job, dict[str, Any]]]


class UnreadableError(WorkerError):
    """No pack of a group could be read; the cause may be this machine rather than the packs."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Packs that the thread reads, and from which it selects if they were claimed in advance."""

    reading: Future[ReadPacks]
    selecting: Future[Selection] | None = None

    def selection(self, known: BloomFilter) -> Selection:
        """Return the rows that are new to this filter."""
        early = self.selecting.result() if self.selecting is not None else None
        return early if early is not None and early.is_valid_for(known) else select_new(self.reading.result(), known)

    def cancel(self) -> None:
        """Cancel what has not begun."""
        for future in (self.selecting, self.reading):
            if future is not None:
                future.cancel()


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Jobs that were claimed before the loop asked for them."""

    held: Sequence[Job]
    group: _Group | None
    """None for a piece of a link list."""


class Ingest(Stage[Job]):
    kind = "ingest"
    unit = "rows"

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "ingest")  # first the pieces that COPY waits for, then the next packs
        self._ahead: _Ahead | None = None
        self._filter = SlotFilter()
        self._hash_lists = HashListCache()

    def claim(self, context: WorkContext) -> Sequence[Job]:
        """Hold a slot of the Bloom filter and claim packs of it; release the slot if it has no packs."""
        slot_before = self._filter.slot
        is_held = self._filter.hold(context)
        if self._ahead is not None and not (is_held and self._filter.slot == slot_before):
            self._release_ahead(self._ahead, context)  # the slot was lost, and its packs with it
        if not is_held:
            return []
        held = self._ahead.held if self._ahead is not None else _claim_packs(context)
        if not held:
            context.session.release_slot()
        return held

    async def work(self, held: Sequence[Job], context: WorkContext) -> Mapping[str, object]:
        ahead, self._ahead = self._ahead, None
        try:
            if is_list(held[0]):
                return await trio.to_thread.run_sync(ingest_list, held[0], context)
            group = ahead.group if ahead is not None and ahead.held == held else None
            if group is None:
                restricted = await trio.to_thread.run_sync(self._hash_lists.current, context)
                group = _Group(self._thread.submit(read_packs, held, context, restricted))
            return await trio.to_thread.run_sync(self._ingest, group, context)
        except (LeaseLost, DatabaseDown, Stopped):
            raise
        except Exception:
            await trio.to_thread.run_sync(self._release_slot, context)
            raise

    def size(self, held: Job) -> int:
        return int(held.payload["rows"] or 0)  # the number of rows of some formats of link lists is unknown

    def count(self, result: Mapping[str, Any]) -> None:
        if "packs" in result:  # a piece of a link list
            metrics.EXTRACTED.inc(result["candidates"])
            return
        fresh = sum(one["n"] for one in result["added"])
        metrics.READ.inc(fresh + result["duplicates"])
        metrics.INGESTED.inc(fresh)

    def _release_slot(self, context: WorkContext) -> None:
        """Free the slot for another worker while this one pauses after a failure."""
        if self._ahead is not None:
            self._release_ahead(self._ahead, context)
        context.session.release_slot()

    def _ingest(self, group: _Group, context: WorkContext) -> Mapping[str, object]:
        known = self._filter.take(context)
        read = group.reading.result()
        if not read.runs:
            self._filter.give_back(known)
            raise UnreadableError(read.unreadable[0][1])  # the loop fails the jobs, and counts this as a failure
        _fail_unreadable(read, context)
        selection = group.selection(known)
        added, results = self._prepare(selection, context)
        for _, result in results:
            result["expected_wrong"] = known.expected_wrong(sum(one["n"] for one in result["added"]))
        adding = self._thread.submit(known.add_new, selection.new_keys)
        self._claim_ahead(known, context)
        context.session.complete_ingest(results, added)
        adding.result()
        self._filter.give_back(known, packs=len(results))
        self._filter.save_snapshot_if_due(context)
        rows, candidates = sum(len(run.hashes) for run in read.runs), sum(one.n for one in added)
        return {"packs": len(results), "rows": rows, "candidates": candidates, "duplicates": rows - candidates}

    def _claim_ahead(self, known: BloomFilter, context: WorkContext) -> None:
        """Claim the next packs; the thread reads them and queries the filter while the current ones are copied."""
        try:
            held = [] if context.stopping.is_set() else _claim_packs(context)
        except LeaseLost as error:  # the reply to the claim was lost for so long that its packs went to another worker
            log.warning("claim.lost stage=ingest error=%r", str(error))
            return
        if held and is_list(held[0]):
            self._ahead = _Ahead(held, None)
        elif held:
            reading = self._thread.submit(read_packs, held, context, self._hash_lists.current(context))
            selecting = self._thread.submit(lambda: select_new(reading.result(), known))
            self._ahead = _Ahead(held, _Group(reading, selecting))

    def _release_ahead(self, ahead: _Ahead, context: WorkContext) -> None:
        """Release the jobs that were claimed in advance; packs that went to another worker with the slot stay there."""
        self._ahead = None
        if ahead.group is not None:
            ahead.group.cancel()
        for job in ahead.held:
            try:
                context.session.release(job)
            except LeaseLost as error:
                log.warning("job.lost stage=ingest job=%s error=%r", job.job_id, str(error))

    def _prepare(self, selection: Selection, context: WorkContext) -> tuple[list[Added], Results]:
        """Let the thread prepare the COPY of each run's new rows; return it with the result of each job."""
        added: list[Added] = []
        results: Results = []
        for run in selection.runs:
            run_id = run.packs.run_id
            leaves = context.session.open_leaves(run_id)
            for subset, (leaf, relation) in leaves.items():
                n = len(run.shuffled.rows.get(subset, ()))
                if n:
                    stream = CopyStream(self._thread, run.shuffled, subset, leaf=leaf, run_id=run_id)
                    added.append(Added(relation, subset, leaf, n, stream))
            results += _results(run, leaves)
        return added, results


def _claim_packs(context: WorkContext) -> list[Job]:
    """Claim packs of the held slot, as many as are shuffled together, or one piece of a link list."""
    held: list[Job] = []
    while len(held) < PACKS_TOGETHER and sum(job.payload["rows"] for job in held) < ROWS_TOGETHER:
        try:
            more = context.session.claim()
            alone = bool(more) and (more[0].attempt > 1 or is_list(more[0]))
            if held and alone:
                # a job that failed before is tried alone, so it cannot make the others fail
                context.session.release(more[0])
                break
        except LeaseLost as error:  # the reply was lost for so long that this pack went to another worker
            if not held:
                raise
            log.warning("claim.lost stage=ingest error=%r", str(error))
            break
        held += more
        if not more or alone:
            break
    return held


def _fail_unreadable(read: ReadPacks, context: WorkContext) -> None:
    """Fail the jobs whose pack cannot be read; the others continue."""
    for job, reason in read.unreadable:
        log.warning("job.failed stage=ingest job=%s error=%r", job.job_id, reason)
        context.session.fail(job, reason)


def _results(run: NewRows, leaves: Mapping[str, tuple[int, str]]) -> Results:
    """Return each job's result: its duplicates, and how many rows go to which leaf."""
    results: Results = []
    for job, rows in zip(run.packs.jobs, run.packs.job_slices(), strict=True):
        fresh = run.packs.rows["subset"][rows].filter(pa.array(run.new[rows]))
        counts = {row["values"]: row["counts"] for row in pc.value_counts(fresh).to_pylist()}
        added = [{"subset": subset, "leaf": leaves[subset][0], "n": n} for subset, n in counts.items()]
        results.append((job, {"duplicates": rows.stop - rows.start - len(fresh), "added": added}))
    return results
