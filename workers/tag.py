"""Tag: units of the tagging of a release with heads, which `tracker tag` begins.

The steps and what their units do are those of `dataset.tagging.jobs`; one machine walks the same with `dataset tag`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset import strict_json
from dataset.formats.steps import Step, UnitResult
from dataset.store.store import Store
from tracker.protocol.session import Job
from workers.runtime.unit_process import answer_request
from workers.runtime.unit_stage import UnitStage

if TYPE_CHECKING:
    from dataset.tagging.options import Options


class Tag(UnitStage):
    kind = "tag"
    module = "workers.tag"

    def options(self, job: Job) -> Mapping[str, Any]:
        """Return the options; the build's number names its folder of work, apart from those of abandoned builds."""
        return {**job.payload["options"], "build": f"queue-{job.payload['build']}"}


def plan_steps(store: Store, release: str, options: Mapping[str, Any]) -> list[Step]:
    from dataset.tagging import jobs

    return jobs.plan_steps(store, release, _options(options))


def run_unit(
    store: Store, release: str, options: Mapping[str, Any], step: str, unit: int, *, scratch: Path
) -> UnitResult:
    from dataset.tagging import jobs

    return jobs.run_unit(store, release, _options(options), step, unit, scratch=scratch)


def _options(options: Mapping[str, Any]) -> "Options":
    from dataset.tagging.options import Options

    return Options.from_json(strict_json.dumps(options).encode())


if __name__ == "__main__":
    answer_request(plan_steps, run_unit)
