"""The steps of a tagging, on one machine or through the queue.

What a unit writes and what it reads is in the store. A unit that is done returns what it returned before.
"""

from pathlib import Path

import threadpoolctl

from dataset.formats.json_records import to_json
from dataset.formats.releases import open_release
from dataset.formats.steps import Step, UnitResult
from dataset.store.store import Store
from dataset.tagging import pictures, scores, table
from dataset.tagging.errors import TaggingError
from dataset.tagging.options import Options
from dataset.tagging.pictures import Pictured
from dataset.tagging.table import WrittenFile
from dataset.tagging.work import PLAN, Work


def plan_steps(store: Store, release_name: str, options: Options) -> list[Step]:
    """Return the steps that tag a release's version.

    Raises: TaggingError when it cannot be tagged; HeadError; ReleaseError; StoreError.
    """
    return Work(open_release(store, release_name), options).plan.steps


def run_unit(store: Store, release_name: str, options: Options, step: str, unit: int, *, scratch: Path) -> UnitResult:
    """Do a unit of a step, with one thread.

    Raises: TaggingError, HeadError; SelectError, ManifestError when pictures cannot be found; StoreError.
    """
    del scratch  # a unit's pictures are in memory
    return run_unit_of(Work(open_release(store, release_name), options), step, unit)


def run_unit_of(work: Work, step: str, unit: int) -> UnitResult:
    """Do a unit of a step."""
    if step == "plan":
        return _begin(work)
    if step == "clean":
        work.delete()
        return UnitResult(0, 0)
    if work.begun is None:
        raise TaggingError("The tagging has ended meanwhile, or was begun anew.")
    with threadpoolctl.threadpool_limits(1):  # one thread a process gives equal bytes
        match step:
            case "score":
                return work.once(step, unit, UnitResult, lambda: scores.score_slice(work, unit))
            case "locate":
                return work.once(step, unit, UnitResult, lambda: pictures.locate(work, unit))
            case "tars":
                return work.once(step, unit, UnitResult, lambda: pictures.list_tars(work))
            case "pictures":
                found = work.once(step, unit, Pictured, lambda: pictures.score_group(work, unit))
                return UnitResult(found.rows, found.tagged)
            case "write":
                return table.result_of(work.once(step, unit, WrittenFile, lambda: table.write_file(work, unit)))
            case "finish":
                return table.finish(work)
            case _:
                raise ValueError(f"{step} is not a step of a tagging")


def _begin(work: Work) -> UnitResult:
    if work.begun is None:
        work.store.put(work.path(PLAN), to_json(work.plan))
    return UnitResult(0, 0)
