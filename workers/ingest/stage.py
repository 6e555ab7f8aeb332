"""Ingest: packs come in, new candidates go to the pool.

    claim packs → drop what the Bloom filter knows → shuffle → COPY and complete, in one transaction

A transaction that fails leaves nothing in the filter, so its links are not lost: the filter in memory is derived, and
after any failure it is dropped and built anew from its snapshot and the packs committed since. So keys may be added
while their rows are copied; a snapshot is taken after the commit. This worker holds its slot of the filter alone, and
one transaction is under way at a time.

While Postgres copies a group of packs, a thread beside prepares its rows a piece ahead of COPY (`copy_pieces`), adds
its keys, and then reads the next group, which is claimed before the COPY begins, holds it against the filter and
shuffles it (`pack_reading`). What a filter said ahead is worth only with that very filter: where a transaction has
failed since, the new one is asked. Packs claimed ahead are held like others: the next `claim` gives them to the loop, a
worker that leaves gives them back, and they go when the slot goes.

Where the time goes, for a group of 18 packs with 500,000 rows, on 2 cores: beside 0.25 to 0.4 CPU-seconds to read, join
and hash, 0.3 to move and prepare, 0.2 to ask the filter (0.05), shuffle (0.04) and add (0.07); before COPY, 0.03 s to
claim; COPY 0.8 to 1.1 s, where it takes 1.0 s alone. What helped besides: joining the packs while they are read (0.2 s
less before COPY), not to move the subset's column (0.07), not to ask the filter again about keys that it has just said
are new (0.05). Rejected: reading and preparing in 2 or 4 threads, which took 0.9 and 1.0 CPU-seconds for 0.7, and no
less time; DELTA_LENGTH_BYTE_ARRAY in packs, which is read no faster. To be won: packs in lz4 are read in half the time
of zstd, and are half as large again; URL, text and language joined before the shuffle are moved in half the CPU-time
(0.18 for 0.34 s), most of it beside, but so are the rows that are dropped.
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
from dataset.store.store import StoreError
from tracker.errors import DatabaseDown, LeaseLost
from tracker.protocol.session import Added, FilterSlot, Job
from workers.errors import Stopped, WorkerError
from workers.ingest.copy_stream import Pieces
from workers.ingest.link_list import ingest_list, is_list
from workers.ingest.packs import NewRows, Picked, ReadPacks, hash_rows, pick_new, read_packs
from workers.runtime import metrics
from workers.runtime.context import WorkContext
from workers.runtime.loop import Stage

log = logging.getLogger("shoal.worker")

# Packs are shuffled together up to this many rows: with 40 rows on a page of the pool, one of 20 packs then gives a
# page two neighbours. 500,000 candidates are some 150 MB here, as much again once they are prepared, and those that are
# read ahead come on top.
ROWS_TOGETHER = 500_000
PACKS_TOGETHER = 20

Results = list[tuple[Job, dict[str, Any]]]


class UnreadableError(WorkerError):
    """None of the packs could be read: perhaps it is not the packs."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Packs that are read beside, and held against a filter there if they came ahead."""

    reading: Future[ReadPacks]
    picking: Future[Picked] | None = None

    def picked(self, known: BloomFilter) -> Picked:
        """What goes to the pool by what this filter knows."""
        picked = self.picking.result() if self.picking is not None else None
        return picked if picked is not None and picked.holds_for(known) else pick_new(self.reading.result(), known)

    def cancel(self) -> None:
        """Let go of what has not begun."""
        for future in (self.picking, self.reading):
            if future is not None:
                future.cancel()


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Jobs that were claimed before the loop asked for them."""

    held: Sequence[Job]
    group: _Group | None
    """None for a list's piece."""


class Ingest(Stage[Job]):
    kind = "ingest"
    unit = "rows"

    def __init__(self) -> None:
        self._beside = ThreadPoolExecutor(1, "ingest")  # first the pieces that COPY waits for, then the next packs
        self._ahead: _Ahead | None = None
        self._filter: BloomFilter | None = None
        self._slot: FilterSlot | None = None
        self._known = 0  # the ordinal of the last pack in the filter

    def claim(self, context: WorkContext) -> Sequence[Job]:
        """Hold a slot of the Bloom filter, and claim packs of it; a slot without packs is let go for another."""
        slot = context.session.hold_slot()
        if self._ahead is not None and (slot is None or self._slot is None or self._slot.slot != slot.slot):
            self._let_go(self._ahead, context)  # the slot was lost, and its packs with it
        if slot is None:
            return []
        if self._slot is None or self._slot.slot != slot.slot or self._known < slot.snapshot_ordinal:
            self._filter = None  # another slot's, or older than what the tracker still lists
        self._slot = slot
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
            group = group or _Group(self._beside.submit(read_packs, held, context))
            return await trio.to_thread.run_sync(self._ingest, group, context)
        except (LeaseLost, DatabaseDown, Stopped):
            raise
        except Exception:
            await trio.to_thread.run_sync(self._step_aside, context)
            raise

    def size(self, held: Job) -> int:
        return int(held.payload["rows"])

    def count(self, result: Mapping[str, Any]) -> None:
        if "packs" in result:  # a piece of a link list
            metrics.EXTRACTED.inc(result["candidates"])
            return
        fresh = sum(one["n"] for one in result["added"])
        metrics.READ.inc(fresh + result["duplicates"])
        metrics.INGESTED.inc(fresh)

    def _step_aside(self, context: WorkContext) -> None:
        """Let another have the slot while this worker pauses after a failure."""
        if self._ahead is not None:
            self._let_go(self._ahead, context)
        context.session.release_slot()

    def _ingest(self, group: _Group, context: WorkContext) -> Mapping[str, object]:
        known, self._filter = self._current_filter(context), None  # back once all has gone well
        read = group.reading.result()
        if not read.runs:
            self._filter = known
            raise UnreadableError(read.unreadable[0][1])  # the loop fails the jobs, and counts a failure of ours
        _fail_unreadable(read, context)
        picked = group.picked(known)
        added, results = self._prepare(picked, context)
        for _, told in results:
            told["expected_wrong"] = known.expected_wrong(sum(one["n"] for one in told["added"]))
        adding = self._beside.submit(known.add_new, picked.new_keys)
        self._look_ahead(known, context)
        context.session.complete_ingest(results, added)
        adding.result()
        self._known += len(results)
        self._filter = known
        self._snapshot_if_due(context)
        rows, candidates = sum(len(run.hashes) for run in read.runs), sum(one.n for one in added)
        return {"packs": len(results), "rows": rows, "candidates": candidates, "duplicates": rows - candidates}

    def _look_ahead(self, known: BloomFilter, context: WorkContext) -> None:
        """Claim the packs that come next, to be read and held against the filter while these are copied."""
        try:
            held = [] if context.stopping.is_set() else _claim_packs(context)
        except LeaseLost as error:  # the claim's reply was lost for so long that its packs went to another
            log.warning("claim.lost stage=ingest error=%r", str(error))
            return
        if held and is_list(held[0]):
            self._ahead = _Ahead(held, None)
        elif held:
            reading = self._beside.submit(read_packs, held, context)
            picking = self._beside.submit(lambda: pick_new(reading.result(), known))
            self._ahead = _Ahead(held, _Group(reading, picking))

    def _let_go(self, ahead: _Ahead, context: WorkContext) -> None:
        """Give back what was claimed ahead; packs that went to another with the slot are another's."""
        self._ahead = None
        if ahead.group is not None:
            ahead.group.cancel()
        for job in ahead.held:
            try:
                context.session.release(job)
            except LeaseLost as error:
                log.warning("job.lost stage=ingest job=%s error=%r", job.job_id, str(error))

    def _current_filter(self, context: WorkContext) -> BloomFilter:
        """The filter of our slot with every pack in it that was committed through the slot."""
        slot = self._slot
        assert slot is not None
        if self._filter is None:
            self._known = slot.snapshot_ordinal
            if slot.snapshot_path is None:
                settings = context.session.settings
                self._filter = BloomFilter(int(settings["bloom_capacity"]), float(settings["bloom_rate"]))
            else:
                with context.store.open_input(slot.snapshot_path) as file:
                    self._filter = BloomFilter.load(file)
        for path in slot.packs[self._known - slot.snapshot_ordinal :]:
            self._filter.add(hash_rows(context.store.read_table(f"{path}.parquet", ["url", "language"]), context))
            self._known += 1
            context.step(1)
        assert self._known == slot.ordinal
        return self._filter

    def _prepare(self, picked: Picked, context: WorkContext) -> tuple[list[Added], Results]:
        """Have the COPY of each run's new rows prepared beside, and work out what to tell of each job."""
        added: list[Added] = []
        results: Results = []
        for run in picked.runs:
            run_id = run.packs.run_id
            leaves = context.session.open_leaves(run_id)
            for subset, (leaf, relation) in leaves.items():
                n = len(run.mixed.rows.get(subset, ()))
                if n:
                    pieces = Pieces(self._beside, run.mixed, subset, leaf=leaf, run_id=run_id)
                    added.append(Added(relation, subset, leaf, n, pieces))
            results += _told(run, leaves)
        return added, results

    def _snapshot_if_due(self, context: WorkContext) -> None:
        slot, known = self._slot, self._filter
        assert slot is not None
        assert known is not None
        if self._known - slot.snapshot_ordinal < context.session.settings["bloom_snapshot_packs"]:
            return
        path = f"bloom/{slot.slot}-{self._known:010d}-{context.session.worker_id}.bloom"
        with context.store.write(path) as file:
            known.save(file)
        context.session.note_snapshot(slot.slot, self._known, path)
        if slot.snapshot_path is not None:
            _forget_snapshot(slot.snapshot_path, context)


def _forget_snapshot(path: str, context: WorkContext) -> None:
    """Delete what was replaced, and is as large as the filter: whoever holds the slot replays from the new one."""
    try:
        context.store.delete(path)
    except StoreError as error:
        log.warning("snapshot.stays path=%s error=%r; tracker sweep deletes it", path, str(error))


def _claim_packs(context: WorkContext) -> list[Job]:
    """Claim packs of the slot that is held, as many as are shuffled together, or one piece of a list."""
    held: list[Job] = []
    while len(held) < PACKS_TOGETHER and sum(job.payload["rows"] for job in held) < ROWS_TOGETHER:
        try:
            more = context.session.claim()
            alone = bool(more) and (more[0].attempt > 1 or is_list(more[0]))
            if held and alone:
                context.session.release(more[0])  # what has failed before is tried alone: it must not spoil the others
                break
        except LeaseLost as error:  # a reply was lost for so long that this one went to another; the others are ours
            if not held:
                raise
            log.warning("claim.lost stage=ingest error=%r", str(error))
            break
        held += more
        if not more or alone:
            break
    return held


def _fail_unreadable(read: ReadPacks, context: WorkContext) -> None:
    """A job whose pack cannot be read fails by itself, and the others go on."""
    for job, reason in read.unreadable:
        log.warning("job.failed stage=ingest job=%s error=%r", job.job_id, reason)
        context.session.fail(job, reason)


def _told(run: NewRows, leaves: Mapping[str, tuple[int, str]]) -> Results:
    """What the tracker is told of each job: its duplicates, and how many rows go to which leaf."""
    told: Results = []
    for job, rows in zip(run.packs.jobs, run.packs.split(), strict=True):
        fresh = run.packs.rows["subset"][rows].filter(pa.array(run.new[rows]))
        counts = {row["values"]: row["counts"] for row in pc.value_counts(fresh).to_pylist()}
        added = [{"subset": subset, "leaf": leaves[subset][0], "n": n} for subset, n in counts.items()]
        told.append((job, {"duplicates": rows.stop - rows.start - len(fresh), "added": added}))
    return told
