"""A tagging under way: its plan, and the folder of its work, `tagging/NAME/v1/{build}` in the store.

plan.json                 written by the first unit; all others read it
score/U  pictures/U       ids and tags in sections by data file
locate/D                  ids, inputs and keys of a data file's rows, in sections by group of shards
tars.parquet              kept tars by group
{step}.{unit}.json        the result of a unit: where it is, the unit is done
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dataset.formats.json_records import from_json, to_json
from dataset.formats.release_embeddings import RECORD, EmbeddingsRecord, embeddings_path, find_embeddings
from dataset.formats.releases import FileKind, Release, ReleaseFile
from dataset.formats.side_tables import TAGS, SideTable, read_side_tables
from dataset.formats.steps import Step
from dataset.formats.versions import WorkKind, work_folder
from dataset.recipe.recipe import STORE_PREFIX
from dataset.store.store import Store
from dataset.tagging.errors import TaggingError
from dataset.tagging.given_heads import GivenHead, checked, fitting, of_store
from dataset.tagging.options import Options
from dataset.tags.heads import Head, Kind

Integers = npt.NDArray[np.int64]
Record = TypeVar("Record")

FORMAT = 1
PLAN = "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFile:
    """File `at` of a batch's embeddings."""

    batch: str
    at: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A tagging's division into units, and the generation of the table that it writes."""

    format: int
    options: Options
    version: str
    generation: int
    kept: SideTable | None
    """The table before, whose other columns are kept."""
    vectors: tuple[VectorFile, ...]
    data: tuple[ReleaseFile, ...]
    groups: int
    """Of shards, whose pictures are a unit."""

    @property
    def slices(self) -> list[tuple[VectorFile, int, int]]:
        """The units of embeddings: a file, its first row, and the row after the last."""
        step = self.options.unit_rows
        starts = ((file, start) for file in self.vectors for start in range(0, file.rows, step))
        return [(file, start, min(file.rows, start + step)) for file, start in starts]

    @property
    def steps(self) -> list[Step]:
        """The steps with their numbers of units."""
        steps = [Step("plan", 1)]
        if self.vectors:
            steps.append(Step("score", len(self.slices)))
        if self.groups:
            steps += [Step("locate", len(self.data)), Step("tars", 1), Step("pictures", self.groups)]
        return [*steps, Step("write", len(self.data)), Step("finish", 1), Step("clean", 1)]

    def data_file_of(self, ids: Integers) -> Integers:
        """Return the numbers of the data files of ids."""
        found: Integers = np.searchsorted(np.array([file.first_id for file in self.data]), ids, "right") - 1
        return found


class Work:
    """The files of a tagging, and what they are made from."""

    def __init__(self, release: Release, options: Options, heads: Mapping[str, GivenHead] | None = None) -> None:
        """Name the work; `heads` are read from the release's store when first needed, if they are not given."""
        self.release, self.options = release, options
        self.store: Store = release.store
        folder = work_folder(WorkKind.TAG, release.record.name, release.record.version)
        self.folder = f"{folder}/{options.build or 'local'}"
        self._given = heads

    @cached_property
    def plan(self) -> Plan:
        """The plan that was begun, or the release's if none was.

        Raises: TaggingError when the release cannot be tagged with these options.
        """
        begun = self.begun
        return begun if begun is not None else make_plan(self)

    @property
    def begun(self) -> Plan | None:
        """The plan with which the work was begun.

        Raises: TaggingError when its file is damaged.
        """
        if not self.store.exists(self.path(PLAN)):
            return None
        try:
            return from_json(Plan, self.store.read(self.path(PLAN)))
        except ValueError as error:
            raise TaggingError(f"{self.path(PLAN)} cannot be read ({error}): begin again with --restart.") from error

    @cached_property
    def heads(self) -> Mapping[str, GivenHead]:
        """The heads by tag.

        Raises: HeadError, TaggingError when one is missing or has changed.
        """
        choices = self.options.heads
        given = self._given
        if given is None:
            local = next((choice.head for choice in choices.values() if not choice.head.startswith(STORE_PREFIX)), None)
            if local is not None:
                raise TaggingError(f"{local} is a local file: put it into the store with `dataset heads add`.")
            given = {tag: of_store(self.store, choice.head) for tag, choice in choices.items()}
        return checked(given, choices)

    def embedding_heads(self, batch: str) -> dict[str, Head]:
        """Return the heads that read embeddings, by tag.

        Raises: TaggingError when one does not fit the batch's.
        """
        record = find_embeddings(self.release, self.options.model, batch)
        if record is None:
            raise TaggingError(f"The embeddings {self.options.model} of {batch} are gone: begin again with --restart.")
        tags = self.options.of_kind(Kind.EMBEDDING)
        return {tag: fitting(self.heads[tag], self.options.model, record) for tag in tags}

    def path(self, *names: object) -> str:
        """Return a path in the store."""
        return "/".join([self.folder, *map(str, names)])

    def once(self, step: str, unit: int, kind: type[Record], do: Callable[[], Record]) -> Record:
        """Do a unit unless it is done; return its record."""
        path = self.path(f"{step}.{unit:06d}.json")
        if not self.store.exists(path):
            self.store.put(path, to_json(do()))
        return self.result(step, unit, kind)

    def result(self, step: str, unit: int, kind: type[Record]) -> Record:
        """Return the record of a unit that is done."""
        return from_json(kind, self.store.read(self.path(f"{step}.{unit:06d}.json")))

    def delete(self) -> None:
        """Delete the folder."""
        for path in self.store.list(self.folder):
            self.store.delete(path)
        self.store.delete_empty_folders(self.folder)


def make_plan(work: Work) -> Plan:
    """Plan a tagging of the release as it is.

    Raises: TaggingError when it has no rows, or no embeddings that the heads can read.
    """
    release, options = work.release, work.options
    data = tuple(file for file in release.files(FileKind.DATA) if file.rows)
    if not data:
        raise TaggingError(f"{release.record.name} has no rows: publish some first.")
    vectors: list[VectorFile] = []
    if options.of_kind(Kind.EMBEDDING):
        for batch in release.record.batches:
            record = find_embeddings(release, options.model, batch.name)
            if record is not None and record.rows:
                work.embedding_heads(batch.name)
                vectors += _vector_files(batch.name, record)
        if not vectors:
            raise TaggingError(
                f"{release.record.name} has no embeddings of {options.model}: write them with dataset embeddings "
                "first, and name their folder below embeddings/."
            )
    pictures = sum(file.rows for file in data) if options.of_kind(Kind.PICTURE) else 0
    kept = read_side_tables(release).get(TAGS)
    return Plan(
        format=FORMAT,
        options=options,
        version=release.record.version,
        generation=1 if kept is None else kept.generation + 1,
        kept=kept,
        vectors=tuple(vectors),
        data=data,
        groups=-(-pictures // options.unit_pictures),
    )


def _vector_files(batch: str, record: EmbeddingsRecord) -> list[VectorFile]:
    images = sorted((file.path, file.rows) for file in record.files if file.path.startswith("img_emb/"))
    return [VectorFile(batch=batch, at=at, rows=rows) for at, (_, rows) in enumerate(images)]


def embedding_folders(release: Release) -> list[str]:
    """Return the folders of the release's embeddings, by name."""
    root = release.path("embeddings")
    records = (path for path in release.store.list(root) if path.endswith(RECORD))
    return sorted({path.removeprefix(f"{root}/").partition("/")[0] for path in records})


def choose_folder(release: Release, heads: Mapping[str, GivenHead]) -> str:
    """Return the one folder of embeddings that all heads can read.

    Raises: TaggingError when there is none, or there are several.
    """
    folders, fits, said = embedding_folders(release), [], ""
    for folder in folders:
        records = (find_embeddings(release, folder, batch.name) for batch in release.record.batches)
        try:
            for record in records:
                for given in heads.values():
                    if record is not None and given.file.kind is Kind.EMBEDDING:
                        fitting(given, folder, record)
        except TaggingError as error:
            said = said or str(error)
            continue
        fits.append(folder)
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise TaggingError(f"The heads can read {' and '.join(fits)} of embeddings/: choose one with --model.")
    if said:
        raise TaggingError(said)
    raise TaggingError(f"{release.record.name} has no embeddings: write them with dataset embeddings first.")


def vectors_path(release: Release, model: str, batch: str, relative: str) -> str:
    """Return the path in the store of a file of embeddings."""
    return release.path(f"{embeddings_path(model, batch)}/{relative}")
