"""Add: the rows of one slice of vectors, each in its list with its code, by list and id."""

from collections.abc import Iterator

import numpy as np

from dataset.formats.index_files import SearchIndexError
from dataset.formats.steps import UnitResult
from dataset.index.add_files import AddHead, blocks
from dataset.index.kinds import OWN_ROWS, Trained
from dataset.index.plan import DESCRIBED_IDS, Work, read_existing
from dataset.index.removed import alive_ids
from dataset.index.sources import VectorSlice, open_vectors, read_ids, slices_of
from dataset.index.train import Halves, unit_rows
from dataset.store.store import StoreError

_ENCODED_ROWS = 16_384


def add_path(unit: int) -> str:
    """Return the path in the work of a unit's file."""
    return f"add/{unit:06d}.rows"


def add_unit(work: Work, trained: Trained, unit: int) -> UnitResult:
    """Write the file of a slice.

    Raises: SearchIndexError for a row that is not finite, or an id that occurs twice; StoreError.
    """
    plan, source = work.plan, work.source
    part = slices_of(source, plan.options.unit_rows)[unit]
    ids, hashes = read_ids(source, part)
    rows = np.empty((len(ids), plan.dimensions), np.float16)
    lists = np.empty(len(ids), np.int64)
    own = plan.kind in OWN_ROWS
    codes = np.empty((len(ids), 0 if own else trained.code_bytes), np.uint8)
    for start, block in _blocks(work, part):
        end = start + len(block)
        rows[start:end] = block
        rotated = trained.rotate(block.astype(np.float32))
        lists[start:end] = trained.assign(rotated)
        if not own:
            codes[start:end] = trained.encode(rotated, lists[start:end])
    present = np.flatnonzero(rows.any(axis=1)) if part.file.first_id is None else np.arange(len(ids))
    if plan.options.compact:
        existing = read_existing(work)
        assert existing is not None
        present = present[alive_ids(work.store, work.folder, existing, ids[present])]
    by_list = present[np.lexsort((ids[present], lists[present]))]
    by_id = present[np.argsort(ids[present], kind="stable")]
    if np.any(ids[by_id][1:] == ids[by_id][:-1]):
        raise SearchIndexError(f"{part.file.metadata} has an id twice: run `dataset embeddings` again with --restart.")
    head = AddHead(len(present), plan.ranges, plan.describe_units, codes.shape[1], plan.dimensions)
    first_lists = [plan.first_list(at) for at in range(plan.ranges + 1)]
    id_ranges = source.id_ranges(DESCRIBED_IDS)
    id_starts = [*(one.first for one in id_ranges), id_ranges[-1].end] if id_ranges else [0]
    with work.store.write(work.path(add_path(unit))) as file:
        file.write(head.to_bytes())
        file.write(np.searchsorted(lists[by_list], first_lists).astype("<i8").tobytes())
        file.write(np.searchsorted(ids[by_id], id_starts).astype("<i8").tobytes())
        for order, values in (
            (by_list, ids.astype("<i8")),
            (by_list, lists.astype("<u4")),
            (by_id, ids.astype("<i8")),
            (by_id, lists.astype("<u4")),
            (by_id, hashes.astype("<i8")),
            (by_list, codes),
            (by_list, rows),
        ):
            for data in blocks(order, values):
                file.write(data)
    return UnitResult(len(ids), len(present))


def _blocks(work: Work, part: VectorSlice) -> Iterator[tuple[int, Halves]]:
    """Yield the rows of a slice as float16 unit rows, with the place of each block in the slice."""
    opened = open_vectors(work.source, part.file, work.plan.options.modality)
    for start in range(part.start, part.end, _ENCODED_ROWS):
        try:
            block = opened.read(start, min(part.end, start + _ENCODED_ROWS))
        except ValueError as error:
            raise StoreError(f"{opened.path} is cut off: write it again.") from error
        numbers = np.arange(start, start + len(block))
        yield start - part.start, unit_rows(block, opened.path, numbers, removed=part.file.first_id is None)
