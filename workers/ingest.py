"""Ingest: packs come in, new candidates go to the pool.

    claim packs → drop what the Bloom filter knows → shuffle → COPY and complete, in one transaction → add to the filter

Keys are added only after the commit: a transaction that fails leaves nothing in the filter, so its links are not lost.
This worker holds its slot of the filter alone, and one transaction is under way at a time, so the keys of packs in
flight need no reserving. The filter in memory is derived; after any failure it is dropped and built anew from its
snapshot and the packs committed since.

Where the time goes, for 20 packs with 557,000 rows: 0.70 CPU-seconds to read (0.23), hash (0.07), ask the filter
(0.05), shuffle, drop and part in one move, and prepare the buffers (0.19); then Postgres copies for 0.8 s or more. On 2
busy cores the whole runs at a third to a half of a bare COPY's rate; to be won: reading and preparing while Postgres
copies. Rejected: reading and preparing in 2 or 4 threads, which took 0.9 and 1.0 CPU-seconds, and no less time.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import trio

from dataset.bloom import BloomFilter
from dataset.keys import Hashes, url_hashes
from dataset.packs import LIST_PACK_SCHEMA
from dataset.shuffle import Mask, Shuffled, number_rows, shuffled_rows
from dataset.store import StoreError
from tracker.copy_rows import copy_buffer
from tracker.session import Added, FilterSlot, Job
from workers.desk import Desk
from workers.lists import ingest_list, is_list

log = logging.getLogger("shoal.worker")

# Packs are shuffled together up to this many rows: with 40 rows on a page of the pool, one of 20 packs then gives a
# page two neighbours. 500,000 candidates are some 150 MB here.
ROWS_TOGETHER = 500_000
PACKS_TOGETHER = 20

COLUMNS = ("url", "text", "language", "subset", "extra")  # extra: where the pack has it
EXTRA = LIST_PACK_SCHEMA.field("extra")


class Ingest:
    kind = "ingest"

    def __init__(self) -> None:
        self._filter: BloomFilter | None = None
        self._slot: FilterSlot | None = None
        self._known = 0  # the ordinal of the last pack in the filter

    def claim(self, desk: Desk) -> Sequence[Job]:
        """Hold a slot of the Bloom filter, and claim packs of it; a slot without packs is let go for another."""
        slot = desk.session.hold_slot()
        if slot is None:
            return []
        if self._slot is None or self._slot.slot != slot.slot or self._known < slot.snapshot_ordinal:
            self._filter = None  # another slot's, or older than what the tracker still lists
        self._slot = slot
        held: list[Job] = []
        while len(held) < PACKS_TOGETHER and sum(job.payload["rows"] for job in held) < ROWS_TOGETHER:
            more = desk.session.claim()
            alone = bool(more) and (more[0].attempt > 1 or is_list(more[0]))
            if held and alone:
                desk.session.release(more[0])  # what has failed before is tried alone: it must not spoil the others
                break
            held += more
            if not more or alone:
                break
        if not held:
            desk.session.release_slot()
        return held

    async def work(self, held: Sequence[Job], desk: Desk) -> Mapping[str, object]:
        if is_list(held[0]):
            return await trio.to_thread.run_sync(ingest_list, held[0], desk)
        return await trio.to_thread.run_sync(self._ingest, held, desk)

    def _ingest(self, held: Sequence[Job], desk: Desk) -> Mapping[str, object]:
        known, self._filter = self._current_filter(desk), None  # back once all has gone well
        held, packs = _read_all(held, desk)
        if not held:
            self._filter = known
            return {"packs": 0}
        hashes = [_hashes(pack, desk) for pack in packs]
        new = np.split(known.first_seen(np.concatenate(hashes)), np.cumsum([len(pack) for pack in packs])[:-1])
        for job, mask in zip(held, new, strict=True):
            mask |= job.payload.get("keep_duplicates", False)
        added, results = _prepare(held, packs, new, desk)
        for _, told in results:
            told["expected_wrong"] = known.expected_wrong(sum(one["n"] for one in told["added"]))
        desk.session.complete_ingest(results, added)
        known.add(np.concatenate(hashes))
        self._known += len(held)
        self._filter = known
        self._snapshot_if_due(desk)
        rows, candidates = sum(map(len, packs)), sum(one.n for one in added)
        return {"packs": len(held), "rows": rows, "candidates": candidates, "duplicates": rows - candidates}

    def _current_filter(self, desk: Desk) -> BloomFilter:
        """The filter of our slot with every pack in it that was committed through the slot."""
        slot = self._slot
        assert slot is not None
        if self._filter is None:
            self._known = slot.snapshot_ordinal
            if slot.snapshot_path is None:
                settings = desk.session.settings
                self._filter = BloomFilter(int(settings["bloom_capacity"]), float(settings["bloom_rate"]))
            else:
                with desk.store.open_input(slot.snapshot_path) as file:
                    self._filter = BloomFilter.load(file)
        for path in slot.packs[self._known - slot.snapshot_ordinal :]:
            self._filter.add(_hashes(desk.store.read_table(f"{path}.parquet", ["url", "language"]), desk))
            self._known += 1
            desk.step(1)
        assert self._known == slot.ordinal
        return self._filter

    def _snapshot_if_due(self, desk: Desk) -> None:
        slot, known = self._slot, self._filter
        assert slot is not None
        assert known is not None
        if self._known - slot.snapshot_ordinal < desk.session.settings["bloom_snapshot_packs"]:
            return
        path = f"bloom/{slot.slot}-{self._known:010d}-{desk.session.worker_id}.bloom"
        with desk.store.write(path) as file:
            known.save(file)
        desk.session.note_snapshot(slot.slot, self._known, path)


def _read_all(held: Sequence[Job], desk: Desk) -> tuple[list[Job], list[pa.Table]]:
    """Read the packs; a job whose pack cannot be read fails by itself, and the others go on."""
    readable: list[Job] = []
    packs: list[pa.Table] = []
    for job in held:
        try:
            pack = desk.store.read_table(f"{job.payload['path']}.parquet", COLUMNS)
        except StoreError as error:
            log.warning("job.failed stage=ingest job=%s error=%r", job.job_id, str(error))
            desk.session.fail(job, str(error))
            continue
        desk.step(len(pack))
        readable.append(job)
        packs.append(number_rows(pack, job.payload["pack"]))
    return readable, packs


def _hashes(pack: pa.Table, desk: Desk) -> Hashes:
    return url_hashes(pack["url"], pack["language"] if desk.session.settings["bloom_language"] else None)


def _prepare(
    held: Sequence[Job], packs: Sequence[pa.Table], new: Sequence[Mask], desk: Desk
) -> tuple[list[Added], list[tuple[Job, dict[str, Any]]]]:
    """Shuffle the new rows of each run's packs together and prepare their COPY; what is to be told of each job."""
    added: list[Added] = []
    results: list[tuple[Job, dict[str, Any]]] = []
    for run_id in sorted({job.run_id for job in held}):
        leaves = desk.session.open_leaves(run_id)
        of_run = [at for at, job in enumerate(held) if job.run_id == run_id]
        mixed = shuffled_rows(
            _alike([packs[at] for at in of_run]), [new[at] for at in of_run], "subset", seed=held[of_run[0]].job_id
        )
        parts = [_buffer(mixed, subset, leaf, run_id) for subset, leaf in leaves.items()]
        added += [part for part in parts if part.n]
        for at in of_run:
            fresh = packs[at]["subset"].filter(pa.array(new[at]))
            counts = {row["values"]: row["counts"] for row in pc.value_counts(fresh).to_pylist()}
            results.append(
                (
                    held[at],
                    {
                        "duplicates": len(packs[at]) - len(fresh),
                        "added": [{"subset": s, "leaf": leaves[s][0], "n": n} for s, n in counts.items()],
                    },
                )
            )
    return added, results


def _alike(packs: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """Packs of one schema: beside a list's, which have `extra`, a crawl's have it empty."""
    if len({pack.num_columns for pack in packs}) == 1:
        return packs
    return [
        pack if "extra" in pack.column_names else pack.append_column(EXTRA, pa.array([""] * len(pack), pa.string()))
        for pack in packs
    ]


def _buffer(mixed: Shuffled, subset: str, into: tuple[int, str], run_id: int) -> Added:
    rows, (leaf, relation) = mixed.part(subset), into
    return Added(relation, subset, leaf, len(rows), copy_buffer(rows, leaf=leaf, run_id=run_id, subset=subset))
