"""The steps of a build, for one machine and for a queue: train, add, describe, merge, finish.

`plan_steps` reads records only. `run_unit` may be called for any unit whose step has begun, on any machine, again and
again: a unit that is done returns what it returned before.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset.formats.index_files import HELD_OUT, TRAINED, IndexFile, IndexRecord
from dataset.formats.json_records import from_json, to_json
from dataset.formats.releases import open_release
from dataset.formats.steps import Step, UnitFile, UnitResult
from dataset.index.add import add_unit
from dataset.index.delete import remove_unpublished
from dataset.index.describe import describe_unit
from dataset.index.finish import make_record, put_record, result_of, start_reach, write_segment
from dataset.index.kinds import OWN_ROWS, Trained, read_trained, write_trained
from dataset.index.measure import measure
from dataset.index.merge import MergedRange, merge_unit
from dataset.index.plan import (
    FINISHED,
    REPLACED,
    IndexOptions,
    Plan,
    Work,
    delete_replaced,
    delete_work,
    read_existing,
    work_on_release,
)
from dataset.index.removed import removed_ids
from dataset.index.train import CODE_ROWS, HeldOut, draw_sample, train
from dataset.store.lock import locked
from dataset.store.store import Store

Progress = Callable[[str, int, int], None]


def plan_steps(store: Store, release_name: str, options: IndexOptions) -> list[Step]:
    """Return the steps of the build of a release's index.

    Raises: SearchIndexError when the release has no such embeddings; ReleaseError; StoreError.
    """
    return work_on_release(open_release(store, release_name), options).plan.steps


def run_unit(
    store: Store, release_name: str, options: IndexOptions, step: str, unit: int, *, scratch: Path
) -> UnitResult:
    """Do a unit of a release's build; `scratch` is a local folder for files that do not outlive the call.

    Raises: SearchIndexError; StoreError.
    """
    return run_step(work_on_release(open_release(store, release_name), options), step, unit, scratch=scratch)


def run_step(work: Work, step: str, unit: int, *, scratch: Path) -> UnitResult:
    """Do a unit of a build.

    Raises: SearchIndexError; StoreError.
    """
    if step != "finish" and work.store.exists(work.path(FINISHED)):
        return UnitResult(0, 0)  # a repeated unit, after the end: its files are gone, and what they became must stay
    match step:
        case "train":
            return work.once(step, unit, UnitResult, lambda: _train(work))
        case "add":
            return work.once(step, unit, UnitResult, lambda: _add(work, unit, scratch))
        case "describe":
            return work.once(step, unit, UnitResult, lambda: describe_unit(work, unit))
        case "merge":
            return _merge(work, unit)
        case "finish":
            return _finish(work)
        case _:
            raise ValueError(f"{step} is not a step of an index build")


def build(
    open_work: Callable[..., Work], *, restart: bool = False, on_progress: Progress = lambda *_: None
) -> IndexRecord:
    """Walk all steps on this machine, or go on with a call that was ended; return the record.

    A build that came to its end is not repeated, unless with `restart`. `open_work(anew=…)` returns the work.

    Raises: SearchIndexError; StoreError.
    """
    work = open_work(anew=restart)
    finished = work.store.exists(work.path(FINISHED))
    if finished and not restart:
        restart = work.plan.options.keeps_lists or from_json(Plan, work.store.read(work.path("plan.json"))) != work.plan
    if restart:
        delete_work(work, keep_end=False)
        work = open_work(anew=True)
    steps = [Step("finish", 1)] if finished and not restart else work.plan.steps
    with tempfile.TemporaryDirectory(prefix="shoal-index-") as scratch:
        for step in steps:
            for unit in range(step.units):
                run_step(work, step.name, unit, scratch=Path(scratch))
                on_progress(step.name, unit + 1, step.units)
    record = read_existing(work)
    assert record is not None
    return record


def _train(work: Work) -> UnitResult:

    plan = work.plan
    work.store.put(work.path("plan.json"), to_json(plan))
    if plan.options.keeps_lists:
        return UnitResult(0, 0)
    wanted = max(plan.options.points_per_list * plan.lists, CODE_ROWS if plan.kind not in OWN_ROWS else 0)
    held_out = min(plan.options.held_out, plan.rows // 10)
    sample, queries = draw_sample(work.source, plan.options.modality, wanted, held_out, plan.options.seed)
    trained = train(sample, plan.kind, plan.lists, plan.options.seed)
    work.store.put(work.output(plan.trained_file(HELD_OUT)), queries.to_bytes())
    work.store.put(work.output(plan.trained_file(TRAINED)), write_trained(trained))
    return UnitResult(len(sample) + len(queries.ids), len(sample))


def _add(work: Work, unit: int, scratch: Path) -> UnitResult:

    with _trained(work, scratch) as trained:
        return add_unit(work, trained, unit)


def _merge(work: Work, unit: int) -> UnitResult:
    merged = work.once("merge", unit, MergedRange, lambda: merge_unit(work, _held_out(work), unit))
    files = tuple(
        UnitFile(work.output(file.path), merged.files.rows, file.bytes) for file in merged.files.files.values()
    )
    return UnitResult(merged.files.rows, merged.described, files)


def _finish(work: Work) -> UnitResult:
    result = work.once("finish", 0, UnitResult, lambda: _publish(work))
    delete_work(work, keep_end=True)
    return result


def _publish(work: Work) -> UnitResult:

    plan = work.plan
    segment = write_segment(work, [work.read("merge", at, MergedRange) for at in range(plan.ranges)])
    record = read_existing(work)
    if record is None or segment.name not in {one.name for one in record.segments}:
        files = (
            [_file(work, plan.trained_file(name)) for name in (TRAINED, HELD_OUT)] if not plan.options.further else []
        )
        record = make_record(work, segment, files, start_reach(work), ())
        if not plan.options.keeps_lists and work.store.local_path(work.output("index.json")) is not None:
            record = measure(work, record)
        with locked(work.store, work.folder):
            _switch(work, record)
    delete_replaced(work, record)
    return result_of(work, record)


def _switch(work: Work, record: IndexRecord) -> None:
    """Publish a record; rows that were removed since a compaction began are removed from its segment first."""
    before = read_existing(work)
    if work.plan.options.compact and before is not None:
        record = remove_unpublished(work.store, work.folder, record, removed_ids(work.store, work.folder, before))
    if before is not None and not work.plan.options.further:
        work.store.put(work.path(REPLACED), to_json(before))
    put_record(work, record)


def _file(work: Work, path: str) -> IndexFile:
    data = work.store.read(work.output(path))
    return IndexFile(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _held_out(work: Work) -> HeldOut:
    if work.plan.options.keeps_lists:
        return HeldOut.empty(work.plan.dimensions)
    return HeldOut.from_bytes(work.store.read(work.output(work.plan.trained_file(HELD_OUT))))


@contextmanager
def _trained(work: Work, scratch: Path) -> Iterator[Trained]:
    """Yield the trained index; one in an object store is copied into `scratch` for as long as it is read."""

    record = read_existing(work) if work.plan.options.keeps_lists else None
    path = work.output(record.trained.path if record else work.plan.trained_file(TRAINED))
    place = work.store.local_path(path)
    copied = place is None
    if place is None:
        place = scratch / f"trained-{os.getpid()}.faiss"
        place.write_bytes(work.store.read(path))
    try:
        yield read_trained(place, work.plan.kind)
    finally:
        if copied:
            place.unlink(missing_ok=True)
