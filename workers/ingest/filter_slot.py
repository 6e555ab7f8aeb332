"""The slot of the Bloom filter that an ingest worker holds, and the slot's filter in the worker's memory.

Invariant: the filter is derived data. It equals the slot's last snapshot plus every pack committed through the slot
since, or it is dropped and rebuilt from both. So no link is lost if a transaction fails: its keys are dropped together
with the filter.
"""

import logging

from dataset.ingest.bloom import BloomFilter
from dataset.store.store import StoreError
from tracker.protocol.session import FilterSlot
from workers.ingest.packs import hash_rows
from workers.runtime.context import WorkContext

log = logging.getLogger("shoal.worker")


class SlotFilter:
    """The filter of the slot that this worker holds. A caller takes it, and gives it back after the commit."""

    def __init__(self) -> None:
        self._slot: FilterSlot | None = None
        self._filter: BloomFilter | None = None
        self._ordinal = 0  # the ordinal of the last pack in the filter

    @property
    def slot(self) -> int | None:
        """The number of the slot that was held last."""
        return None if self._slot is None else self._slot.slot

    def hold(self, context: WorkContext) -> bool:
        """Hold a slot, the same as before if possible; return False if no slot is free."""
        slot = context.session.hold_slot()
        if slot is None:
            return False
        if slot.slot != self.slot or self._ordinal < slot.snapshot_ordinal:
            # the filter belongs to another slot, or is older than the packs that the tracker still lists
            self._filter = None
        self._slot = slot
        return True

    def take(self, context: WorkContext) -> BloomFilter:
        """Return the filter with every pack that was committed through the slot.

        The filter counts as lost until `give_back` is called.
        """
        slot = self._slot
        assert slot is not None
        if self._filter is None:
            self._filter, self._ordinal = _load(slot, context), slot.snapshot_ordinal
        for path in slot.packs[self._ordinal - slot.snapshot_ordinal :]:
            self._filter.add(hash_rows(context.store.read_table(f"{path}.parquet", ["url", "language"]), context))
            self._ordinal += 1
            context.step(1)
        assert self._ordinal == slot.ordinal
        taken, self._filter = self._filter, None
        return taken

    def give_back(self, taken: BloomFilter, *, packs: int = 0) -> None:
        """Keep the filter, after the keys of this number of committed packs were added to it."""
        self._filter = taken
        self._ordinal += packs

    def save_snapshot_if_due(self, context: WorkContext) -> None:
        """Write a snapshot after every `bloom_snapshot_packs` packs, and delete the one before."""
        slot, kept = self._slot, self._filter
        assert slot is not None
        assert kept is not None
        if self._ordinal - slot.snapshot_ordinal < context.session.settings["bloom_snapshot_packs"]:
            return
        path = f"bloom/{slot.slot}-{self._ordinal:010d}-{context.session.worker_id}.bloom"
        with context.store.write(path) as file:
            kept.save(file)
        context.session.note_snapshot(slot.slot, self._ordinal, path)
        if slot.snapshot_path is not None:
            _delete_snapshot(slot.snapshot_path, context)


def _load(slot: FilterSlot, context: WorkContext) -> BloomFilter:
    if slot.snapshot_path is None:
        settings = context.session.settings
        return BloomFilter(int(settings["bloom_capacity"]), float(settings["bloom_rate"]))
    with context.store.open_input(slot.snapshot_path) as file:
        return BloomFilter.load(file)


def _delete_snapshot(path: str, context: WorkContext) -> None:
    """Delete a replaced snapshot, which is as large as the filter; holders of the slot load the new one."""
    try:
        context.store.delete(path)
    except StoreError as error:
        log.warning("snapshot.stays path=%s error=%r; tracker sweep deletes it", path, str(error))
