"""The plan of a publish: everything that its bytes depend on, fixed before the first unit of work.

    {work}/plan.json     inputs, options, the batch's name and version, the number of groups and ranges
    {work}/groups.arrow  the parts of each group, one record batch a group
    {work}/runs/ ranges/ files/   what the units of the three phases wrote

The work folder is `publishing/NAME` in the release's store, or `NAME` at --scratch. Whoever finds a plan there goes on
with it, on this machine or another; a call with other inputs or options is refused. `planning` makes the plan.

A release is published by one call at a time: where the work lies elsewhere, `publishing/NAME/elsewhere` in the store
says so, because two batches made side by side would have the same ids, and may have the same files.
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
    """The ids files of earlier batches, by their paths in the store."""
    earlier_data: tuple[str, ...]
    """Their data files, if their URLs or pictures have to be unique with the new ones."""
    groups: tuple[int, ...]
    """The number of groups of each input; they are numbered through."""
    ranges: int
    """A power of two: a range is what hashes have in common in their first bits."""
    value_ranges: int
    """As ranges, of the values that have to be unique."""
    writer: str


@dataclass(frozen=True, slots=True)
class Work:
    """A publish under way: its release's store, where the work lies, and the plan."""

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
        """The columns of a run's rows: what the release keeps of a part."""
        multi = data_schema("multi", aesthetic=self.plan.aesthetic)
        extended = extended_schema(self.plan.columns)
        own = pa.schema([SOURCE_SCHEMA.field(name) for name in ("key", "md5", "sha1")])
        left_out = {"id", "crawl"}
        return pa.schema([field for schema in (multi, extended, own) for field in schema if field.name not in left_out])


def writer_name() -> str:
    """Return the library that writes parquet here."""
    return f"pyarrow {version('pyarrow')}"


def work_place(store: Store, scratch: Store | None, name: str) -> tuple[Store, str]:
    """Return the store and the folder of a release's work."""
    return (scratch, name) if scratch else (store, f"publishing/{name}")


def claim_release(store: Store, scratch: Store | None, name: str) -> None:
    """Note in the release's store that its work lies at `scratch`.

    Raises: PublishError when work lies anywhere else.
    """
    claim = _claim_path(name)
    other = store.read(claim).decode() if store.exists(claim) else None
    if scratch and store.exists(f"publishing/{name}/plan.json"):
        other = f"publishing/{name} of {store.uri}"
    if other is not None and (scratch is None or other != scratch.uri):
        raise PublishError(
            f"The work of an unfinished publish of {name} lies in {other}: repeat the call that began it, or begin "
            "anew with --restart."
        )
    if scratch:
        store.put(claim, scratch.uri.encode())


def load_work(store: Store, scratch: Store | None, name: str) -> Work | None:
    """Open the work that a plan is there for.

    Raises: PublishError when the plan is not one of this Shoal, or another pyarrow began.
    """
    place, folder = work_place(store, scratch, name)
    if not place.exists(f"{folder}/plan.json"):
        return None
    try:
        plan = from_json(Plan, place.read(f"{folder}/plan.json"))
    except ValueError as error:
        raise PublishError(
            f"{folder}/plan.json in {place.uri} is not a plan of this Shoal ({error}): finish with the Shoal that "
            "began, or begin anew with --restart."
        ) from error
    if plan.writer != writer_name():
        raise PublishError(
            f"The unfinished publish of {name} was begun with {plan.writer}, and this is {writer_name()}, which writes "
            "other bytes: install that version to finish it, or begin anew with --restart."
        )
    return Work(store, place, folder, plan)


def delete_work(store: Store, scratch: Store | None, name: str) -> None:
    """Delete the work folder of a release, the plan last, and what says that it lies elsewhere."""
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
