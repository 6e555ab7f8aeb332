"""The steps of a search, on one machine or through the queue.

A round has four steps of its own, so that a row's state is known to all super-cells before they go on. What a unit
writes and what it reads is in the store; of its own disk it needs nothing. The first unit of a step deletes what was
needed up to the step before.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import threadpoolctl

from dataset.dedup import check, finish, prepare, rounds, side_table
from dataset.dedup.errors import DedupError
from dataset.dedup.options import Options
from dataset.dedup.work import Work
from dataset.formats.releases import open_release
from dataset.formats.steps import Step, UnitResult
from dataset.store.store import Store

Unit = Callable[[Work, int], UnitResult]


def plan_steps(store: Store, release_name: str, options: Options) -> list[Step]:
    """Return the steps that make the side table of a release's version from its embeddings.

    Raises: DedupError when there are no embeddings, or others were searched before; ReleaseError; StoreError.
    """
    return steps_of(Work(open_release(store, release_name), options))


def run_unit(store: Store, release_name: str, options: Options, step: str, unit: int, *, scratch: Path) -> UnitResult:
    """Do a unit of a step, with one thread.

    Raises: DedupError when the embeddings or the work cannot be used, or a promise does not hold; StoreError.
    """
    del scratch  # files that are mapped are read where they are
    return run_unit_of(Work(open_release(store, release_name), options), step, unit)


def steps_of(work: Work) -> list[Step]:
    """Return the steps of a search."""
    plan, supers, files = work.plan, work.plan.super_cells, len(work.data)
    new = range(plan.new_from, len(plan.batches))
    embeddings = sum(len(plan.batches[batch].rows) for batch in new)
    steps = []
    if new:
        data = sum(len(work.data_of(batch)) for batch in new)
        steps += [Step("ids", embeddings), Step("quality", data), Step("train", 1), Step("layout", embeddings)]
        steps += [Step(f"gather-{batch}", supers) for batch in new]
    for at in plan.rounds:
        steps += [Step(f"{name}-{at}", supers) for name in ("new", "merge", "rest")] + [Step(f"sweep-{at}", 1)]
    steps += [Step(name, supers) for name in ("count", "verify", "result")]
    return [*steps, Step("texts", files), Step("write", files), Step("finish", 1), Step("clean", 1)]


def run_unit_of(work: Work, step: str, unit: int) -> UnitResult:
    """Do a unit of a step."""
    name, _, at = step.partition("-")
    with threadpoolctl.threadpool_limits(1):  # one thread a process gives equal bytes at a seventh of the CPU time
        match name:
            case "ids" | "layout":
                do = prepare.sort_ids if name == "ids" else prepare.lay_out
                return do(work, *_unit_of_batch(work, unit, lambda batch: len(work.plan.batches[batch].rows)))
            case "quality":
                return prepare.rank_data_file(work, *_unit_of_batch(work, unit, lambda batch: len(work.data_of(batch))))
            case "train":
                return prepare.train(work)
            case "gather" | "new" | "merge" | "rest" | "sweep":
                return _ROUND[name](work, int(at), unit)
            case _:
                return _END[name](work, unit)


def _gather(work: Work, batch: int, unit: int) -> UnitResult:
    if unit == 0:
        work.delete_new("sample")
    return prepare.gather(work, batch, unit)


def _merge(work: Work, at: int, unit: int) -> UnitResult:
    if unit == 0 and at == work.plan.rounds.start:
        work.delete_new("ids", "quality", "layout", "copied")
    return rounds.Round(work, at, unit).merge()


_ROUND: dict[str, Callable[[Work, int, int], UnitResult]] = {
    "gather": _gather,
    "new": lambda work, at, unit: rounds.Round(work, at, unit).join_new(),
    "merge": _merge,
    "rest": lambda work, at, unit: rounds.Round(work, at, unit).join_rest(),
    "sweep": lambda work, at, _: rounds.sweep_round(work, at),
}
_END: dict[str, Unit] = {
    "count": check.count_members,
    "verify": check.verify,
    "result": side_table.place_rows,
    "texts": side_table.send_texts,
    "write": side_table.write_file,
    "finish": lambda work, _: finish.finish(work),
    "clean": lambda work, _: _clean(work),
}


def _clean(work: Work) -> UnitResult:
    """Delete what no later batch needs; a step of its own, because finish can be repeated until it is recorded."""
    finish.delete_temporary(work)
    return UnitResult(0, 0)


def _unit_of_batch(work: Work, unit: int, units: Callable[[int], int]) -> tuple[int, int]:
    """Return the new batch and the number in it of a unit that counts through all new batches."""
    new = range(work.plan.new_from, len(work.plan.batches))
    starts = np.cumsum([0, *map(units, new)])
    if not 0 <= unit < starts[-1]:
        raise DedupError(f"The search has no unit {unit}: it has ended meanwhile, or was planned anew.")
    batch = int(np.searchsorted(starts, unit, "right")) - 1
    return new[batch], unit - int(starts[batch])
