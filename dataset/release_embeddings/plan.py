"""The plan of a consolidation, and its work folder: `consolidating/NAME/v1/{model}/{batch}` in the release's store.

plan.json      the request, and the number of units sources.arrow  the sources of each unit, one record batch per unit
match/ layout/ files/   the output of the units
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from dataset.formats import versions
from dataset.formats.json_records import from_json, to_json
from dataset.formats.release_embeddings import ReleaseEmbeddingsError, embeddings_path
from dataset.formats.releases import Release, ReleaseBatch
from dataset.formats.versions import WorkKind
from dataset.release_embeddings.sources import Source
from dataset.store.store import Store

_SCHEMA = pa.schema([(field.name, pa.int64() if field.name == "rows" else pa.string()) for field in fields(Source)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The inputs that determine the result, and the division of the work."""

    release: str
    version: str
    batch: str
    model: str
    """As in the request: a name, or the first digits of a checksum."""
    folder: str
    foreign: str
    """The folder of foreign embeddings; '' for those of the release's inputs."""
    rows_per_file: int
    units: int


@dataclass(frozen=True, slots=True)
class Work:
    """A consolidation in progress."""

    release: Release
    batch: ReleaseBatch
    plan: Plan

    def path(self, relative: str) -> str:
        """Return the path in the store of a file of the work."""
        return f"{work_folder(self.plan)}/{relative}"

    def output_path(self, relative: str) -> str:
        """Return the path in the store of a file of the result."""
        return self.release.path(f"{embeddings_path(self.plan.folder, self.plan.batch)}/{relative}")

    def source_store(self, source: Source) -> Store:
        """Open the store of a source.

        Raises: ReleaseError, StoreError when it cannot be opened.
        """
        if self.plan.foreign:
            return Store.open(source.store, writable=False)
        return self.release.input_store(source.store)

    def sources(self, unit: int) -> list[Source]:
        """Read the sources of a unit."""
        with self.release.store.open_input(self.path("sources.arrow")) as file:
            return [Source(**row) for row in pa.ipc.open_file(file).get_batch(unit).to_pylist()]


def work_folder(plan: Plan) -> str:
    """Return the folder of a plan's work in the release's store."""
    return f"{versions.work_folder(WorkKind.EMBEDDINGS, plan.release, plan.version)}/{plan.folder}/{plan.batch}"


def open_work(release: Release, plan: Plan, sources: Iterable[Source], unit_rows: int) -> Work:
    """Continue the work of this plan, or begin it: write the sources in units of about `unit_rows`, then the plan.

    Raises: ReleaseEmbeddingsError when the folder has the work of another plan, or there is no source.
    """
    store, path = release.store, f"{work_folder(plan)}/plan.json"
    if store.exists(path):
        known = from_json(Plan, store.read(path))
        if asdict(known) | {"units": 0} != asdict(plan):
            raise ReleaseEmbeddingsError(
                f"{path} is of another call (release {known.version}, model {known.model}, {known.foreign or 'crawls'}"
                "): repeat that call, or start again with --restart."
            )
        return Work(release, release.batch(plan.batch), known)
    units = 0
    with (
        store.write(f"{work_folder(plan)}/sources.arrow") as file,
        pa.ipc.new_file(pa.PythonFile(file, "w"), _SCHEMA) as writer,
    ):
        for unit in in_units(sources, unit_rows):
            writer.write_batch(pa.RecordBatch.from_pylist([asdict(source) for source in unit], schema=_SCHEMA))
            units += 1
    if not units:
        delete_work(release, plan)
        raise ReleaseEmbeddingsError(
            f"The manifests list no part with rows for batch {plan.batch}: write the manifests again (tracker "
            "manifest)."
        )
    plan = Plan(**asdict(plan) | {"units": units})
    store.put(path, to_json(plan))
    return Work(release, release.batch(plan.batch), plan)


def in_units(sources: Iterable[Source], rows: int) -> Iterator[list[Source]]:
    """Group sources until a group has `rows`; a unit has sources of one store."""
    unit: list[Source] = []
    gathered = 0
    for source in sources:
        if unit and (gathered + source.rows > rows or source.store != unit[0].store):
            yield unit
            unit, gathered = [], 0
        unit.append(source)
        gathered += source.rows
    if unit:
        yield unit


def delete_work(release: Release, plan: Plan) -> None:
    """Delete the folder of a plan's work, the plan last."""
    folder = work_folder(plan)
    for path in release.store.list(folder):
        if path != f"{folder}/plan.json":
            release.store.delete(path)
    release.store.delete(f"{folder}/plan.json")
    release.store.delete_empty_folders(folder)
