"""What a build was asked for, its plan, and the folder of its work:
`indexing/NAME/v{MAJOR}/{model}/{modality}` in the store.

plan.json              written by the train step; the later steps read it
add/ describe/ merge/  files of these steps, deleted by finish
{step}/{unit}.json     the result of a unit: where it is, the unit is done
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

from dataset.formats.index_files import (
    FORMAT,
    KINDS,
    MODALITIES,
    RECORD,
    IndexRecord,
    SearchIndexError,
    index_path,
    parse_index_record,
    read_index_record,
)
from dataset.formats.json_records import from_json, to_json
from dataset.formats.release_embeddings import EmbeddingModel, model_folder_name
from dataset.formats.releases import Release
from dataset.formats.steps import Step
from dataset.formats.versions import WorkKind, versioned, work_folder
from dataset.index.folder_source import FolderSource
from dataset.index.kinds import choose_kind, choose_lists
from dataset.index.sources import ReleaseSource, Source, rows_of, slices_of
from dataset.store.store import Store

FINISHED = "finish/000000.json"
REPLACED = "replaced.json"
"""Path in the work: the record that the build replaces, until its files are deleted."""
Record = TypeVar("Record")

MAX_RANGES = 1_024
RANGE_ROWS = 500_000
DESCRIBED_IDS = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """What a build was asked for; it determines the bytes. `lists` 0 and the kind `auto` mean: by size."""

    model: str
    """The folder below embeddings/, or the name of the vectors' model."""
    modality: str = "image"
    kind: str = "auto"
    lists: int = 0
    batches: tuple[str, ...] = ()
    """Of the release; () means all that have embeddings, and for a further segment all that are in none."""
    further: bool = False
    """Add a segment to the index that exists, with its centroids."""
    compact: bool = False
    """Replace all segments of the index that exists by one, without the rows that were removed from it."""
    seed: int = 0
    points_per_list: int = 64
    held_out: int = 512
    unit_rows: int = 262_144
    build: str = ""
    """Names this build among others of the same release, model and modality; a queue gives each its own."""

    @property
    def keeps_lists(self) -> bool:
        """Whether the index that exists gives the centroids."""
        return self.further or self.compact

    def __post_init__(self) -> None:
        """Raise SearchIndexError for values that no index has."""
        if self.kind not in ("auto", *KINDS):
            raise SearchIndexError(f"{self.kind} is not a kind of index: use auto, {', '.join(KINDS)}.")
        if self.modality not in MODALITIES:
            raise SearchIndexError(f"{self.modality} is not a modality: use image or text.")

    def to_json(self) -> bytes:
        """Return the options as JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> "IndexOptions":
        """Read options.

        Raises: ValueError when they are not options of an index.
        """
        return from_json(cls, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A build's division into units."""

    format: int
    options: IndexOptions
    name: str
    version: str
    model: EmbeddingModel
    dimensions: int
    rows: int
    kind: str
    lists: int
    generation: int
    segment: str
    batches: tuple[str, ...]
    ranges: int
    add_units: int
    describe_units: int
    groups: bool
    """Whether the release's near-duplicates were known when the build began."""

    @property
    def steps(self) -> list[Step]:
        """The steps with their numbers of units."""
        return [
            Step("train", 1),
            Step("add", self.add_units),
            Step("describe", self.describe_units),
            Step("merge", self.ranges),
            Step("finish", 1),
        ]

    def trained_file(self, name: str) -> str:
        """Return the path in the index's folder of a file that the train step writes."""
        return f"{versioned(str(self.generation), self.version)}/{name}"

    def first_list(self, at: int) -> int:
        """Return the first list of a range; that after the last for `at` = ranges."""
        return at * self.lists // self.ranges


@dataclass(frozen=True, slots=True)
class Work:
    """A build under way. `folder` is the index's, `work` that of unfinished files, both in `store`."""

    store: Store
    folder: str
    work: str
    source: Source
    plan: Plan

    def path(self, relative: str) -> str:
        """Return the path in the store of a file of the work."""
        return f"{self.work}/{relative}"

    def output(self, relative: str) -> str:
        """Return the path in the store of a file of the index."""
        return f"{self.folder}/{relative}" if self.folder else relative

    def once(self, step: str, unit: int, kind: type[Record], do: Callable[[], Record]) -> Record:
        """Do a unit unless it is done; return its record."""
        path = self.path(f"{step}/{unit:06d}.json")
        if not self.store.exists(path):
            self.store.put(path, to_json(do()))
        return self.read(step, unit, kind)

    def read(self, step: str, unit: int, kind: type[Record]) -> Record:
        """Return the record of a unit that is done."""
        return from_json(kind, self.store.read(self.path(f"{step}/{unit:06d}.json")))


def work_on_release(release: Release, options: IndexOptions, *, anew: bool = False) -> Work:
    """Return the build of a release's index: the one that was begun with these options, unless `anew`.

    Raises: SearchIndexError when it has no such embeddings, or the index that they do not fit to.
    """
    folder = release.path(index_path(options.model, options.modality))
    work = work_folder(WorkKind.INDEX, release.record.name, release.record.version)
    work = f"{work}/{options.model}/{options.modality}/{options.build or 'local'}"
    plan = None if anew else _begun(release.store, work, options)
    batches = plan.batches if plan else options.batches
    existing = None if plan else _existing(release.store, folder)
    if not batches and options.further and existing:
        known = {name for segment in existing.segments for name in segment.batches}
        batches = tuple(one.name for one in release.record.batches if one.name not in known)
        if not batches:
            raise SearchIndexError(f"The index has all batches of {release.record.name}: there is nothing to add.")
    if not batches and options.compact and existing:
        batches = tuple(name for segment in existing.segments for name in segment.batches)
    source = ReleaseSource.open(release, options.model, batches)
    return Work(release.store, folder, work, source, plan or make_plan(source, options, existing))


def work_on_folder(uri: str, out: str | None, options: IndexOptions, *, anew: bool = False) -> Work:
    """Return the build of the index of a folder of vectors, in `out` or in the folder's `index/`.

    Raises: SearchIndexError when the folder cannot be indexed.
    """
    source = FolderSource.open(uri, options.model)
    store = Store.open(out or uri)
    folder = "" if out else index_path(model_folder_name(source.model.name or "vectors"), options.modality)
    work = "indexing" if out else f"index/indexing/{options.modality}"
    plan = None if anew else _begun(store, work, options)
    return Work(store, folder, work, source, plan or make_plan(source, options, _existing(store, folder)))


def _begun(store: Store, work: str, options: IndexOptions) -> Plan | None:
    path = f"{work}/plan.json"
    if not store.exists(path):
        return None
    plan = from_json(Plan, store.read(path))
    if plan.options != options and store.exists(f"{work}/{FINISHED}"):
        return None
    if plan.format != FORMAT or plan.options != options:
        raise SearchIndexError(
            f"{path} is of a build with other options that was not finished: repeat that call, or begin anew with "
            "--restart."
        )
    return plan


def _existing(store: Store, folder: str) -> IndexRecord | None:
    path = f"{folder}/{RECORD}" if folder else RECORD
    return read_index_record(store, folder) if store.exists(path) else None


def read_existing(work: Work) -> IndexRecord | None:
    """Return the record of the index that the build replaces or adds to; None when there is none."""
    return _existing(work.store, work.folder)


def make_plan(source: Source, options: IndexOptions, existing: IndexRecord | None) -> Plan:
    """Return the plan of a build.

    Raises: SearchIndexError when the vectors do not fit to the index that they are added to.
    """
    rows = rows_of(source)
    if not rows:
        raise SearchIndexError(f"{source.name} has files of vectors, but not one row: add some.")
    if options.keeps_lists:
        if existing is None:
            raise SearchIndexError(f"There is no index of {source.name} to change: build one first.")
        check_model(existing, source.model, source.dimensions)
        kind, lists, generation = existing.kind, existing.lists, existing.generation
    else:
        kind = choose_kind(rows) if options.kind == "auto" else options.kind
        lists = 1 if kind == "flat" else options.lists or choose_lists(kind, rows)
        generation = existing.generation + 1 if existing else 1
    name = source.batches[-1] if source.batches else "rows"
    return Plan(
        format=FORMAT,
        options=options,
        name=source.name,
        version=source.version,
        model=source.model,
        dimensions=source.dimensions,
        rows=rows,
        kind=kind,
        lists=lists,
        generation=generation,
        segment=versioned(f"{generation}-{_next_number(existing)}-{name}", source.version),
        batches=source.batches,
        ranges=max(1, min(MAX_RANGES, lists, -(-rows // RANGE_ROWS))),
        add_units=len(slices_of(source, options.unit_rows)),
        describe_units=len(source.id_ranges(DESCRIBED_IDS)),
        groups=source.has_groups,
    )


def delete_work(work: Work, *, keep_end: bool) -> None:
    """Delete the files of the work; with `keep_end`, its plan and its last result stay.

    They answer a unit that is repeated after the end.
    """
    kept = {work.path("plan.json"), work.path(FINISHED)}
    for path in work.store.list(work.work):
        if path not in kept:
            work.store.delete(path)
    if not keep_end:
        for path in sorted(kept):
            work.store.delete(path)


def delete_replaced(work: Work, record: IndexRecord) -> None:
    """Delete the files of the record that was kept as REPLACED and are not of this one; who mapped them keeps them."""
    path = work.path(REPLACED)
    if work.store.exists(path):
        kept = {file.path for file in record.files}
        for file in parse_index_record(work.store.read(path), path).files:
            if file.path not in kept:
                work.store.delete(work.output(file.path))


def _next_number(existing: IndexRecord | None) -> int:
    """Return a number for a segment that none of the index had before: readers take equal names for equal files."""
    return max((int(one.name.split("-")[1]) for one in existing.segments), default=0) + 1 if existing else 1


def check_model(record: IndexRecord, model: EmbeddingModel, dimensions: int) -> None:
    """Raise SearchIndexError unless vectors are of the index's model."""
    if dimensions != record.dimensions:
        raise SearchIndexError(
            f"The vectors have {dimensions} dimensions and the index {record.dimensions}: they are of another model."
        )
    known = record.model
    if known.sha256 and model.sha256 and known.checksum != model.checksum:
        raise SearchIndexError(
            f"The index is of {known.name} {known.checksum[:12]} and the vectors are of {model.name} "
            f"{model.checksum[:12]}: vectors of different models cannot be compared."
        )


def described(plan: Plan) -> dict[str, object]:
    """Return a plan as the command prints it."""
    return asdict(plan) | {"steps": [[step.name, step.units] for step in plan.steps]}
