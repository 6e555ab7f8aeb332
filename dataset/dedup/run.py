"""A whole search on one machine: the steps in order, the units of a step in processes.

A unit that is done leaves its result in the folder `done`, so that an interrupted search continues. Each process has
one thread and, where a limit is given, its memory is limited by the kernel (RLIMIT_DATA: all that is not a mapped
file).
"""

import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing.pool import Pool
from pathlib import Path

from dataset.dedup import finish, jobs
from dataset.dedup.cells import SAMPLE_PER_CELL, cell_count
from dataset.dedup.errors import DedupError
from dataset.dedup.jobs import steps_of
from dataset.dedup.options import Options
from dataset.dedup.prepare import BLOCK_ROWS, SAMPLE_ROWS
from dataset.dedup.work import Work, read_state, work_folder
from dataset.formats.duplicates import NAME, REPORT
from dataset.formats.npy import open_rows
from dataset.formats.releases import Release, open_release
from dataset.formats.side_tables import read_side_tables
from dataset.formats.steps import UnitResult
from dataset.store.store import Store

Progress = Callable[[str, int, int], None]

SCRATCH_BYTES_PER_ROW = 1_100
"""At most, without copied embeddings; 866 were measured at a million rows, 1,059 at ten million."""
_ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"
"""Of the processes: Arrow's own allocator reserves a GiB, which counts as memory."""
_PROCESS_BYTES, _ROW_BYTES, _SAMPLE_BYTES = 500 << 20, 1_600, 3_400
"""Of memory: a process with its libraries; a row of a super-cell or of a file of embeddings; a row of the sample."""
_HALF_BYTES, _PLACE_BYTES = 2, 64
"""A number of a copied row, and its places while rows are sorted."""


def search(
    release: Release,
    options: Options,
    *,
    processes: int = 1,
    memory_bytes: int | None = None,
    restart: bool = False,
    on_progress: Progress = lambda *_: None,
) -> bytes:
    """Write the side table `duplicates` of a release; return the report, a JSON object.

    `memory_bytes` limits each process. A table that is there for the same version and options is kept.

    Raises: DedupError; StoreError.
    """
    if restart:
        _delete(release, options.model)
    state = read_state(release, options.model)
    work = Work(release, options)
    if not _is_done(work, state is not None and state.version == release.record.version):
        _check_room(work, memory_bytes)
        _run(work, processes, memory_bytes, on_progress)
    finish.delete_temporary(work)
    for path in release.store.list(work.path("done")):
        release.store.delete(path)
    return release.store.read(release.path(REPORT))


def _is_done(work: Work, same_version: bool) -> bool:
    new = work.plan.new_from < len(work.plan.batches)
    table = read_side_tables(work.release).get(NAME)
    return same_version and not new and table is not None and table.version == work.release.record.version


def _run(work: Work, processes: int, memory_bytes: int | None, on_progress: Progress) -> None:
    steps = steps_of(work)
    name = work.release.folder.rpartition("/")[2]
    with _pool(processes, memory_bytes) as pool:
        do = partial(_do, work) if pool is None else partial(_do_in_process, work.store.uri, name, work.options)
        for step in steps:
            shown = step.name.partition("-")[0]
            left = [unit for unit in range(step.units) if not work.store.exists(_done(work, step.name, unit))]
            done = step.units - len(left)
            for unit, result in _map(pool, partial(do, step.name), left):
                work.store.put(_done(work, step.name, unit), result.to_json())
                done += 1
                on_progress(shown, done, step.units)


def _map(
    pool: Pool | None, do: Callable[[int], tuple[int, UnitResult]], units: Iterable[int]
) -> Iterator[tuple[int, UnitResult]]:
    return map(do, units) if pool is None else pool.imap_unordered(do, units)


def _do_in_process(uri: str, name: str, options: Options, step: str, unit: int) -> tuple[int, UnitResult]:
    return _do(_open_work(uri, name, options), step, unit)


@lru_cache(maxsize=1)
def _open_work(uri: str, name: str, options: Options) -> Work:
    """Return the work, which a process opens once: the plan does not change before the end."""
    return Work(open_release(Store.open(uri, writable=False), name), options)


def _do(work: Work, step: str, unit: int) -> tuple[int, UnitResult]:
    try:
        return unit, jobs.run_unit_of(work, step, unit)
    except MemoryError as error:
        raise DedupError(f"Too little memory in {step} ({error}): give more --memory.") from error


@contextmanager
def _pool(processes: int, memory_bytes: int | None) -> Iterator[Pool | None]:
    if processes == 1 and memory_bytes is None:
        yield None
        return
    before = os.environ.get(_ARROW_POOL)
    os.environ[_ARROW_POOL] = "system"
    try:
        context = multiprocessing.get_context("spawn")
        with context.Pool(processes, initializer=_limit_memory, initargs=(memory_bytes,)) as pool:
            yield pool
    finally:
        os.environ.pop(_ARROW_POOL)
        if before is not None:
            os.environ[_ARROW_POOL] = before


def _limit_memory(memory_bytes: int | None) -> None:
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _check_room(work: Work, memory_bytes: int | None) -> None:
    """Raise DedupError when the disk or the memory is too small."""
    rows = sum(sum(batch.rows) for batch in work.plan.batches)
    first = sum(work.plan.batches[0].rows)
    largest = max(max(batch.rows) for batch in work.plan.batches)
    sample = min(first, max(SAMPLE_ROWS, SAMPLE_PER_CELL * (work.options.cells or cell_count(first))))
    new = work.plan.batches[work.plan.new_from :]
    copy_bytes = _HALF_BYTES * open_rows(work.store, work.images(0, 0)).dimensions
    is_copied = any(batch.copied for batch in new)
    row_bytes = max(_ROW_BYTES, copy_bytes + _PLACE_BYTES) if is_copied else _ROW_BYTES
    needed = (
        _PROCESS_BYTES
        + 2 * BLOCK_ROWS * copy_bytes * is_copied
        + max(row_bytes * 2 * rows // work.plan.super_cells, _ROW_BYTES * largest // 2, _SAMPLE_BYTES * sample)
    )
    if memory_bytes is not None and memory_bytes < needed:
        raise DedupError(
            f"A process needs {needed / 2**30:.1f} GiB for {rows:,} rows: give --memory {needed / 2**30 + 0.05:.1f}."
        )
    place = work.store.local_path(work.folder)
    if place is not None:
        existing = next(parent for parent in (place, *place.parents) if parent.exists())
        scratch = sum(sum(one.rows) * (SCRATCH_BYTES_PER_ROW + 2 * copy_bytes * one.copied) for one in new)
        if shutil.disk_usage(Path(existing)).free < scratch:
            raise DedupError(
                f"The search needs {scratch / 2**30:.1f} GiB in {place}, which are not free: make room, or move the "
                "store."
            )


def _delete(release: Release, model: str) -> None:
    folder = work_folder(release, model)
    release.store.delete(f"{folder}/state.json")
    for path in release.store.list(folder):
        release.store.delete(path)


def _done(work: Work, step: str, unit: int) -> str:
    return work.path("done", work.release.record.version, f"{step}.{unit}.json")
