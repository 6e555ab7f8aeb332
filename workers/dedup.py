"""Dedup: units of the search for a release's near-duplicates, which `tracker dedup` begins.

The steps and what their units do are those of `dataset.dedup.jobs`; one machine walks the same with `dataset dedup`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset.formats.steps import Step, UnitResult
from dataset.store.store import Store
from workers.runtime.unit_process import answer_request
from workers.runtime.unit_stage import UnitStage


class Dedup(UnitStage):
    kind = "dedup"
    module = "workers.dedup"


def plan_steps(store: Store, release: str, options: Mapping[str, Any]) -> list[Step]:
    from dataset.dedup import jobs
    from dataset.dedup.options import Options

    return jobs.plan_steps(store, release, Options.from_json(options))


def run_unit(
    store: Store, release: str, options: Mapping[str, Any], step: str, unit: int, *, scratch: Path
) -> UnitResult:
    """Do a unit; the last one writes the release's card anew, too."""
    from dataset.dedup import jobs
    from dataset.dedup.options import Options
    from dataset.formats.releases import open_release
    from dataset.publish.record import refresh_card

    result = jobs.run_unit(store, release, Options.from_json(options), step, unit, scratch=scratch)
    if step == "finish":
        refresh_card(open_release(store, release))
    return result


if __name__ == "__main__":
    answer_request(plan_steps, run_unit)
