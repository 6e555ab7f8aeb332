"""`dataset publish`: the plan, the units of the three phases, and the record.

After its output, each unit writes a small JSON file, its marker, with the facts that the parent needs. A unit with a
marker is done, so an interrupted publish continues where it was.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from dataset import strict_json
from dataset.formats.json_records import from_json, to_json
from dataset.formats.releases import (
    SUBSETS,
    ReleaseBatch,
    ReleaseFile,
    ReleaseRecord,
    SubsetRows,
    find_release,
    release_folder,
)
from dataset.publish.errors import PublishError
from dataset.publish.files import FileUnit, plan_files, write_file, write_ids
from dataset.publish.plan import Work, delete_work, load_work
from dataset.publish.planning import Request, open_work
from dataset.publish.ranges import write_range
from dataset.publish.record import check_unchanged, write_record
from dataset.publish.runs import write_run
from dataset.publish.uniqueness import UniqueBy, write_earlier, write_losers
from dataset.publish.worker_pool import WorkerPool, worker_pool
from dataset.stats.suffixes import suffix_rules
from dataset.store.store import Store, StoreError


class Phase(StrEnum):
    """The phases whose units are shared; the value is their folder."""

    RUNS = "runs"
    EARLIER = "earlier"
    UNIQUE = "unique"
    RANGES = "ranges"
    FILES = "files"


Progress = Callable[[Phase, int, int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a publish in progress, as passed to worker processes."""

    store: str
    scratch: str | None
    name: str
    plan: str
    """The sha256 of plan.json, because a process may work on several plans of a release, one after the other."""


def publish(
    store: Store,
    request: Request,
    *,
    scratch: Store | None = None,
    memory_bytes: int = 1 << 30,
    workers: int = 1,
    restart: bool = False,
    on_progress: Progress = lambda *_: None,
) -> ReleaseRecord:
    """Publish a release or a further batch of one, or continue an interrupted publish; return the record.

    Raises: PublishError when it cannot be published; StoreError when the store or the disk fails. When called again, it
    continues where it was.
    """
    release_folder(request.name)
    suffix_rules()  # so that a missing package is noticed before the work, not after it
    if restart:
        for work_store in (scratch, None) if scratch else (None,):
            delete_work(store, work_store, request.name)
    work = open_work(store, scratch, request, memory_bytes=memory_bytes, workers=workers)
    digest = hashlib.sha256(to_json(work.plan)).hexdigest()
    place = Place(store.uri, scratch.uri if scratch else None, request.name, digest)
    record = _published(work)
    if record is None:
        with worker_pool(workers) as pool:
            record = _publish(work, place, pool, on_progress)
    store.delete_partial(release_folder(request.name))
    delete_work(store, scratch, request.name)
    return record


def _published(work: Work) -> ReleaseRecord | None:
    """Return the release's record if it has the plan's batch already; then only the work folder has to be deleted.

    Raises: PublishError when the release has changed since the plan was made.
    """
    release = find_release(work.release_store, work.plan.name)
    if release and any(batch.name == work.plan.batch for batch in release.record.batches):
        return release.record
    check_unchanged(work)
    return None


def _publish(work: Work, place: Place, pool: WorkerPool, on_progress: Progress) -> ReleaseRecord:
    plan = work.plan
    dropped: Counter[str] = Counter()
    contacts: Counter[str] = Counter()
    for counts in _run_phase(work, place, pool, Phase.RUNS, range(sum(plan.groups)), on_progress):
        dropped.update(counts)
    kinds = [UniqueBy(name) for name in plan.options.unique]
    for phase, units in ((Phase.EARLIER, len(plan.earlier_data)), (Phase.UNIQUE, plan.value_ranges)):
        if kinds:
            _run_phase(work, place, pool, phase, [(kind, at) for kind in kinds for at in range(units)], on_progress)
    range_rows = np.zeros((plan.ranges, len(SUBSETS)), np.int64)
    for at, counts in enumerate(_run_phase(work, place, pool, Phase.RANGES, range(plan.ranges), on_progress)):
        range_rows[at] = counts["rows"]
        dropped.update(counts["dropped"])
        contacts.update(counts["contacts"])
    totals = range_rows.sum(axis=0)
    if not totals.sum():
        _refuse_empty(work, dropped)
    entries = _run_phase(work, place, pool, Phase.FILES, plan_files(work, range_rows), on_progress)
    files = [from_json(ReleaseFile, strict_json.dumps(one).encode()) for entry in entries for one in entry]
    subsets = _subset_rows(work, totals.tolist())
    files += [write_ids(work, subset, rows.rows, rows.first_id) for subset, rows in subsets.items()]
    batch = ReleaseBatch(
        name=plan.batch,
        version=plan.version,
        writer=plan.writer,
        inputs=tuple(range(plan.first_input, plan.first_input + len(plan.inputs))),
        subsets=subsets,
        dropped=dict(sorted(dropped.items())),
        contacts=dict(sorted(contacts.items())),
    )
    return write_record(work, batch, files)


def _subset_rows(work: Work, totals: Sequence[int]) -> dict[str, SubsetRows]:
    """Return the range of ids of each subset that has rows, consecutive in the order of SUBSETS."""
    first_id, found = work.plan.first_id, {}
    for subset, rows in zip(SUBSETS, totals, strict=True):
        if rows:
            found[subset] = SubsetRows(first_id=first_id, rows=rows)
        first_id += rows
    return found


def _refuse_empty(work: Work, dropped: Mapping[str, int]) -> None:
    delete_work(work.release_store, None if work.store is work.release_store else work.store, work.plan.name)
    reasons = ", ".join(f"{reason}: {n:,}" for reason, n in dropped.items() if n)
    remedy = "give other inputs, or check the deny lists" if dropped.get("denied") else "give other inputs"
    raise PublishError(f"No row is left to publish ({reasons or 'the parts are empty'}): {remedy}.")


def _run_phase(
    work: Work, place: Place, pool: WorkerPool, phase: Phase, units: Sequence[Any], on_progress: Progress
) -> list[Any]:
    """Run the units of a phase that are not done, and return the content of all markers, in the order of the units."""
    done = {path for path in work.store.list(work.path(phase.value)) if path.endswith(".json")}
    todo = [at for at in range(len(units)) if _marker(work, phase, at) not in done]
    on_progress(phase, len(units) - len(todo), len(units))
    calls = [(run_unit, (place, phase, at, units[at])) for at in todo]
    for ended, _ in enumerate(pool.run(calls), 1):
        on_progress(phase, len(units) - len(todo) + ended, len(units))
    return [json.loads(work.store.read(_marker(work, phase, at))) for at in range(len(units))]


def run_unit(place: Place, phase: Phase, at: int, unit: Any) -> None:
    """Do a unit of work in this process, and write its marker.

    Raises: PublishError, StoreError.
    """
    work = _open_work(place)
    left: Any = None
    try:
        match phase:
            case Phase.RUNS:
                left = write_run(work, unit)
            case Phase.EARLIER:
                write_earlier(work, *unit)
            case Phase.UNIQUE:
                write_losers(work, *unit)
            case Phase.RANGES:
                left = write_range(work, unit)
            case Phase.FILES:
                assert isinstance(unit, FileUnit)
                left = [asdict(entry) for entry in write_file(work, unit)]
        work.store.put(_marker(work, phase, at), strict_json.dumps(left).encode())
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"Unit {at} of the {phase} of {place.name} failed ({' '.join(str(error).split())}): free disk space, or "
            "correct the error, and call publish again; it continues where it was."
        ) from error


@lru_cache(1)
def _open_work(place: Place) -> Work:
    store = Store.open(place.store, writable=False)
    scratch = Store.open(place.scratch, writable=False) if place.scratch else None
    work = load_work(store, scratch, place.name)
    if work is None:
        raise PublishError(
            f"The working files of {place.name} were deleted while the publish was running: publish it again."
        )
    return work


def _marker(work: Work, phase: Phase, at: int) -> str:
    return work.path(f"{phase.value}/{at:06d}.json")
