"""The plan of a publish: everything that determines its bytes, fixed before the first unit of work.

    {work}/plan.json     inputs, options, the batch's name and version, the number of groups and ranges
    {work}/groups.arrow  the parts of each group, one record batch per group {work}/runs/ ranges/ files/   the output of
    the units of the three phases

The work folder is `publishing/NAME` in the release's store, or `NAME` at --scratch. A call that finds a plan there
continues it, on this machine or another; a call with other inputs or options is refused. `planning` makes the plan.

Only one call at a time may publish a release, because two concurrent batches would have the same ids, and may have the
same files. If the work folder is not in the store, the file `publishing/NAME/elsewhere` in the store names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa

from dataset.formats.json_records import from_json
from dataset.formats.releases import (
    SOURCE_SCHEMA,
    CardDetails,
    ReleaseInput,
    ReleaseOptions,
    data_schema,
    extended_schema,
    open_input_store,
    recording_path,
    release_folder,
)
from dataset.publish.errors import PublishError
from dataset.publish.inputs import Part
from dataset.publish.run_file import RunFile
from dataset.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The content of plan.json. `inputs` are this batch's; the first has the position `first_input` in the release."""

    name: str
    batch: str
    version: str
    previous: str | None
    published: str
    first_id: int
    first_input: int
    inputs: tuple[ReleaseInput, ...]
    options: ReleaseOptions
    card: CardDetails
    columns: Mapping[str, str]
    aesthetic: bool
    deny: tuple[str, ...]
    """Deny lists, by their paths in the store."""
    earlier: tuple[str, ...]
    """Paths in the store of the ids files of earlier batches."""
    earlier_data: tuple[str, ...]
    """Paths of their data files, if URLs or pictures must be unique across old and new rows."""
    groups: tuple[int, ...]
    """The number of groups of each input; groups are numbered consecutively over all inputs."""
    ranges: int
    """The number of ranges, a power of two; the hashes of a range have the same first bits."""
    value_ranges: int
    """The same for the values that must be unique."""
    writer: str


@dataclass(frozen=True, slots=True)
class Work:
    """A publish in progress: the release's store, the place of the work folder, and the plan."""

    release_store: Store
    store: Store
    folder: str
    plan: Plan

    def path(self, relative: str) -> str:
        """Return the path in the work's store."""
        return f"{self.folder}/{relative}"

    def release_path(self, relative: str) -> str:
        """Return the path in the release's store of a path in the release."""
        return f"{release_folder(self.plan.name)}/{relative}"

    def run_file(self, group: int) -> RunFile:
        """Return the sorted run of a group."""
        return RunFile(self.store, self.path(f"runs/{group:06d}"), self.plan.ranges)

    def read_group(self, group: int) -> tuple[int, list[Part]]:
        """Return the position of the group's input among the plan's, and the group's parts."""
        with self.store.open_input(self.path("groups.arrow")) as file:
            listed = pa.ipc.open_file(file).get_batch(group).to_pylist()
        return self.group_inputs[group] - self.plan.first_input, [Part(**row) for row in listed]

    def input_store(self, at: int) -> Store:
        """Return the store of an input."""
        return open_input_store(self.release_store, self.plan.inputs[at].store)

    @property
    def group_inputs(self) -> list[int]:
        """The position in the release of each group's input."""
        return [self.plan.first_input + at for at, groups in enumerate(self.plan.groups) for _ in range(groups)]

    @property
    def row_schema(self) -> pa.Schema:
        """The columns of a run's rows: those of a part that the release keeps."""
        multi = data_schema("multi", aesthetic=self.plan.aesthetic)
        extended = extended_schema(self.plan.columns)
        own = pa.schema([SOURCE_SCHEMA.field(name) for name in ("key", "md5", "sha1")])
        left_out = {"id", "crawl"}
        return pa.schema([field for schema in (multi, extended, own) for field in schema if field.name not in left_out])


def writer_name() -> str:
    """Return the name and version of the library that writes parquet."""
    return f"pyarrow {version('pyarrow')}"


def work_place(store: Store, scratch: Store | None, name: str) -> tuple[Store, str]:
    """Return the store and the folder of a release's work."""
    return (scratch, name) if scratch else (store, f"publishing/{name}")


def claim_release(store: Store, scratch: Store | None, name: str) -> None:
    """Record in the release's store that the work folder is at `scratch`.

    Raises: PublishError when another work folder exists.
    """
    claim = _claim_path(name)
    other = store.read(claim).decode() if store.exists(claim) else None
    if scratch and store.exists(f"publishing/{name}/plan.json"):
        other = f"publishing/{name} of {store.uri}"
    if other is not None and (scratch is None or other != scratch.uri):
        raise PublishError(
            f"The working files of an unfinished publish of {name} are in {other}: repeat the call that began it, or "
            "start again with --restart."
        )
    if scratch:
        store.put(claim, scratch.uri.encode())


def load_work(store: Store, scratch: Store | None, name: str) -> Work | None:
    """Open the work folder if it has a plan.

    Raises: PublishError when the plan is from another version of Shoal or of pyarrow.
    """
    place, folder = work_place(store, scratch, name)
    if not place.exists(f"{folder}/plan.json"):
        return None
    try:
        plan = from_json(Plan, place.read(f"{folder}/plan.json"))
    except ValueError as error:
        raise PublishError(
            f"{folder}/plan.json in {place.uri} is not a plan of this version of Shoal ({error}): finish with the "
            "version that began it, or start again with --restart."
        ) from error
    if plan.writer != writer_name():
        raise PublishError(
            f"The unfinished publish of {name} was begun with {plan.writer}, and this is {writer_name()}, which writes "
            "other bytes: install that version to finish it, or start again with --restart."
        )
    return Work(store, place, folder, plan)


def delete_work(store: Store, scratch: Store | None, name: str) -> None:
    """Delete the work folder of a release, the plan last, and the record of its place."""
    store.delete(_claim_path(name))
    store.delete(recording_path(name))
    place, folder = work_place(store, scratch, name)
    plan = f"{folder}/plan.json"
    place.delete_partial(folder)
    for path in [path for path in place.list(folder) if path != plan]:
        place.delete(path)
    place.delete(plan)
    place.delete_empty_folders(folder)
    store.delete_empty_folders(_claim_path(name).rpartition("/")[0])


def _claim_path(name: str) -> str:
    return f"publishing/{name}/elsewhere"
