"""Index: units of the build of a release's kNN index, which `tracker index` begins.

The steps and what their units do are those of `dataset.index.jobs`; one machine walks the same with `dataset index`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset import strict_json
from dataset.formats.steps import Step, UnitResult
from dataset.store.store import Store
from tracker.protocol.session import Job
from workers.runtime.unit_process import answer_request
from workers.runtime.unit_stage import UnitStage


class Index(UnitStage):
    kind = "index"
    module = "workers.index"

    def options(self, job: Job) -> Mapping[str, Any]:
        """Return the options; the build's number names its folder of work, apart from those of abandoned builds."""
        return {**job.payload["options"], "build": f"queue-{job.payload['build']}"}


def plan_steps(store: Store, release: str, options: Mapping[str, Any]) -> list[Step]:
    from dataset.index import jobs
    from dataset.index.plan import IndexOptions

    return jobs.plan_steps(store, release, IndexOptions.from_json(strict_json.dumps(options).encode()))


def run_unit(
    store: Store, release: str, options: Mapping[str, Any], step: str, unit: int, *, scratch: Path
) -> UnitResult:
    """Do a unit; the last one writes the release's card anew, too."""
    from dataset.formats.releases import open_release
    from dataset.index import jobs
    from dataset.index.plan import IndexOptions
    from dataset.publish.record import refresh_card

    given = IndexOptions.from_json(strict_json.dumps(options).encode())
    result = jobs.run_unit(store, release, given, step, unit, scratch=scratch)
    if step == "finish":
        refresh_card(open_release(store, release))
    return result


if __name__ == "__main__":
    answer_request(plan_steps, run_unit)
