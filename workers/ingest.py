"""Ingest: packs come in, new candidates go to the pool.

    claim packs → drop what the Bloom filter knows → shuffle → COPY and complete, in one transaction → add to the filter

Keys are added only after the commit: a transaction that fails leaves nothing in the filter, so its links are not lost.
This worker holds its slot of the filter alone, and one transaction is under way at a time, so the keys of packs in
flight need no reserving. The filter in memory is derived; after any failure it is dropped and built anew from its
snapshot and the packs committed since.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import trio

from dataset.bloom import BloomFilter
from dataset.keys import Hashes, url_hashes
from dataset.shuffle import number_rows, shuffle_packs
from tracker.copy_rows import copy_buffer
from tracker.session import Added, FilterSlot, Job
from workers.desk import Desk

# Packs are shuffled together up to this many rows: with 40 rows on a page of the pool, one of 20 packs then gives a
# page two neighbours. 500,000 candidates are some 150 MB here.
ROWS_TOGETHER = 500_000
PACKS_TOGETHER = 20


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
        if self._slot is None or self._slot.slot != slot.slot:
            self._filter = None
        self._slot = slot
        held: list[Job] = []
        while len(held) < PACKS_TOGETHER and sum(job.payload["rows"] for job in held) < ROWS_TOGETHER:
            more = desk.session.claim()
            if not more:
                break
            held += more
        if not held:
            desk.session.release_slot()
        return held

    async def work(self, held: Sequence[Job], desk: Desk) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(self._ingest, held, desk)

    def _ingest(self, held: Sequence[Job], desk: Desk) -> Mapping[str, object]:
        known, self._filter = self._current_filter(desk), None  # back once all has gone well
        packs = [_read(job, desk) for job in held]
        hashes = [_hashes(pack, desk) for pack in packs]
        new = np.split(known.first_seen(np.concatenate(hashes)), np.cumsum([len(pack) for pack in packs])[:-1])
        fresh = [pack.filter(pa.array(mask)) for pack, mask in zip(packs, new, strict=True)]
        added, results = _prepare(held, fresh, desk)
        desk.session.complete_ingest(results, added)
        known.add(np.concatenate(hashes))
        self._known += len(held)
        self._filter = known
        self._snapshot_if_due(desk)
        rows, candidates = sum(map(len, packs)), sum(map(len, fresh))
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


def _read(job: Job, desk: Desk) -> pa.Table:
    pack = desk.store.read_table(f"{job.payload['path']}.parquet", ["url", "text", "language", "subset"])
    desk.step(len(pack))
    return number_rows(pack, job.payload["pack"])


def _hashes(pack: pa.Table, desk: Desk) -> Hashes:
    return url_hashes(pack["url"], pack["language"] if desk.session.settings["bloom_language"] else None)


def _prepare(
    held: Sequence[Job], fresh: Sequence[pa.Table], desk: Desk
) -> tuple[list[Added], list[tuple[Job, dict[str, object]]]]:
    """Shuffle each run's packs together and prepare their COPY; what is to be told of each job."""
    added: list[Added] = []
    results: list[tuple[Job, dict[str, object]]] = []
    for run_id in sorted({job.run_id for job in held}):
        leaves = desk.session.open_leaves(run_id)
        of_run = [(job, pack) for job, pack in zip(held, fresh, strict=True) if job.run_id == run_id]
        mixed = shuffle_packs([pack for _, pack in of_run], seed=of_run[0][0].job_id)
        for subset, (leaf, relation) in leaves.items():
            rows = mixed.filter(pc.equal(mixed["subset"], subset))
            if len(rows):
                buffer = copy_buffer(rows, leaf=leaf, run_id=run_id, subset=subset)
                added.append(Added(relation, subset, leaf, len(rows), buffer))
        for job, pack in of_run:
            counts = Counter(pack["subset"].to_pylist())
            results.append(
                (
                    job,
                    {
                        "duplicates": job.payload["rows"] - len(pack),
                        "added": [{"subset": s, "leaf": leaves[s][0], "n": n} for s, n in counts.items()],
                    },
                )
            )
    return added, results
