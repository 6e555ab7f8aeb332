"""What an index is built from: vectors with ids in slices of files, and the columns of rows in ranges of ids.

A release has consolidated embeddings in `embeddings/`, and columns in its data files. A folder has .npy files
(clip-retrieval's layout, or any), perhaps with parquet files of the same numbers of rows; its ids are row numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats import duplicates
from dataset.formats.index_files import SearchIndexError
from dataset.formats.npy import NpyRows, open_rows
from dataset.formats.release_embeddings import EmbeddingModel, embeddings_path, find_embeddings, metadata_path
from dataset.formats.release_embeddings import image_path as release_image_path
from dataset.formats.release_embeddings import text_path as release_text_path
from dataset.formats.releases import FileKind, Release, ReleaseFile
from dataset.formats.side_tables import SideTable
from dataset.index.groups import COLUMNS as GROUP_COLUMNS
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store

Integers = npt.NDArray[np.int64]

NO_HASH = np.iinfo(np.int64).min
"""The hash of a row that has none to compare."""
_MAX_CATEGORIES = 60_000
GROUP_SCHEMA = pa.schema([(f"{duplicates.NAME}.{name}", pa.int64()) for name in GROUP_COLUMNS])
"""Of the side table of near-duplicates."""


@dataclass(frozen=True, slots=True)
class VectorFile:
    """Rows of pictures and of texts, with the file that has their ids; `first_id` if these are row numbers."""

    images: str
    texts: str | None
    metadata: str | None
    rows: int
    first_id: int | None


@dataclass(frozen=True, slots=True)
class VectorSlice:
    """Rows `start` to below `end` of a file: the unit of the add step."""

    file: VectorFile
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids `first` to below `end`, all in one file: the unit of the describe step."""

    first: int
    end: int
    file: int


class Source(Protocol):
    """Vectors and columns of one build."""

    store: Store
    name: str
    version: str
    model: EmbeddingModel
    dimensions: int
    batches: tuple[str, ...]

    @property
    def files(self) -> Sequence[VectorFile]:
        """The files with vectors."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of rows, `id` aside."""

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """The possible values of columns that have few."""

    def id_ranges(self, rows: int) -> list[IdRange]:
        """Return all ids in ranges of at most so many, in order."""

    @property
    def has_groups(self) -> bool:
        """Whether near-duplicates are known."""

    def read_rows(self, ids: IdRange, *, groups: bool) -> pa.Table:
        """Return the rows of a range with `id` and all columns, in the order of ids; ids without a row are absent.

        With `groups` the columns of GROUP_SCHEMA come last, null for rows that have none.
        """


def has_groups(tables: Mapping[str, SideTable]) -> bool:
    """Return whether one of a release's side tables has groups of near-duplicates with their sizes."""
    return duplicates.NAME in tables and {*GROUP_COLUMNS} <= tables[duplicates.NAME].columns.keys()


def rows_of(source: Source) -> int:
    """Return the number of vectors."""
    return sum(file.rows for file in source.files)


def slices_of(source: Source, rows: int) -> list[VectorSlice]:
    """Return the vectors in slices of at most so many rows."""
    return [
        VectorSlice(file, start, min(file.rows, start + rows))
        for file in source.files
        for start in range(0, file.rows, rows)
    ]


def open_vectors(source: Source, file: VectorFile, modality: str) -> NpyRows:
    """Open the pictures' or texts' vectors of a file.

    Raises: SearchIndexError when they do not fit; NpyError, StoreError when they cannot be read.
    """
    path = file.images if modality == "image" else file.texts
    if path is None:
        raise SearchIndexError(f"{source.name} has no vectors of texts: build with --modality image.")
    opened = open_rows(source.store, path)
    if (opened.rows, opened.dimensions) != (file.rows, source.dimensions):
        raise SearchIndexError(
            f"{path} has {opened.rows} rows of {opened.dimensions} dimensions, not {file.rows} of {source.dimensions}: "
            "leave it out, or make it again."
        )
    return opened


def read_ids(source: Source, part: VectorSlice) -> tuple[Integers, Integers]:
    """Return the ids of a slice and their hashes -> (N,), (N,) int64; NO_HASH where none is known.

    Raises: SearchIndexError when metadata and vectors differ in number.
    """
    file, count = part.file, part.end - part.start
    if file.first_id is not None:
        return np.arange(file.first_id + part.start, file.first_id + part.end), np.full(count, NO_HASH)
    assert file.metadata is not None
    opened = open_parquet(source.store, file.metadata)
    if opened.metadata.num_rows != file.rows:
        raise SearchIndexError(
            f"{file.metadata} has {opened.metadata.num_rows} rows and {file.images} {file.rows}: run "
            "`dataset embeddings` again with --restart."
        )
    rows = read_slice(opened, part.start, part.end, ["id", "hash"])
    return rows["id"].to_numpy(), rows["hash"].to_numpy()


def read_slice(opened: pq.ParquetFile, start: int, end: int, columns: list[str] | None) -> pa.Table:
    """Read rows of a parquet file by the row groups that hold them."""
    groups: list[int] = []
    first = before = 0
    for at in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(at).num_rows
        if before < end and before + rows > start:
            if not groups:
                first = before
            groups.append(at)
        before += rows
    table = opened.read_row_groups(groups, columns=columns, use_threads=False)
    return table.slice(start - first, end - start)


def open_parquet(store: Store, path: str) -> pq.ParquetFile:
    """Open a parquet file.

    Raises: SearchIndexError when it cannot be read as one.
    """
    try:
        return pq.ParquetFile(store.open_input(path))
    except (pa.ArrowException, OSError) as error:
        raise SearchIndexError(f"{path} cannot be read as parquet ({error}): make it again.") from error


@dataclass
class ReleaseSource:
    """A release's consolidated embeddings of one model, of some batches."""

    release: Release
    folder: str
    batches: tuple[str, ...]
    files: list[VectorFile] = field(default_factory=list)

    @classmethod
    def open(cls, release: Release, folder: str, batches: Sequence[str] = ()) -> "ReleaseSource":
        """Find the embeddings in `embeddings/{folder}/`; without `batches`, all that the release has.

        Raises: SearchIndexError when there are none; ReleaseEmbeddingsError.
        """
        names = tuple(batches) or tuple(one.name for one in release.record.batches)
        records = {name: find_embeddings(release, folder, name) for name in names}
        found = {name: record for name, record in records.items() if record is not None}
        if not found or (batches and len(found) < len(names)):
            lacking = ", ".join(name for name in names if name not in found)
            raise SearchIndexError(
                f"{release.record.name} has no embeddings of {folder} for batch {lacking}: run `dataset embeddings "
                f"{release.record.name} --model {folder}` first."
            )
        source = cls(release, folder, tuple(found))
        source.model = next(iter(found.values())).model
        source.dimensions = next(iter(found.values())).dimensions
        for name, record in found.items():
            place = release.path(embeddings_path(folder, name))
            rows = {file.path: file.rows for file in record.files}
            at = 0
            while (image := release_image_path(at)) in rows:
                images, texts, ids = (f"{place}/{path}" for path in (image, release_text_path(at), metadata_path(at)))
                source.files.append(VectorFile(images, texts, ids, rows[image], None))
                at += 1
        return source

    def __post_init__(self) -> None:
        self.store = self.release.store
        self.name = self.release.record.name
        self.version = self.release.record.version
        self.model = EmbeddingModel("", "", "")
        self.dimensions = 0

    @cached_property
    def rows(self) -> ReleaseRows:
        """The release's rows with its side tables."""
        return ReleaseRows.open(self.release)

    @property
    def schema(self) -> pa.Schema:
        """The columns of data and extended files."""
        return pa.schema([one for one in self.rows.schema if "." not in one.name and one.name != "id"])

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """The subsets, and the runs as crawls."""
        record = self.release.record
        crawls = tuple(dict.fromkeys(one.run for one in record.inputs))
        return {"subset": ("en", "multi", "nolang")} | ({"crawl": crawls} if len(crawls) < _MAX_CATEGORIES else {})

    @cached_property
    def data_files(self) -> list[ReleaseFile]:
        """The data files of the batches, in the order of their ids."""
        files = [file for batch in self.batches for file in self.release.files(FileKind.DATA, batch=batch) if file.rows]
        return sorted(files, key=lambda file: file.first_id)

    def id_ranges(self, rows: int) -> list[IdRange]:
        """Return the ids of the data files, cut every `rows`."""
        return [
            IdRange(first, min(file.last_id + 1, first + rows), at)
            for at, file in enumerate(self.data_files)
            for first in range(file.first_id, file.last_id + 1, rows)
        ]

    @property
    def has_groups(self) -> bool:
        """Whether the release has a side table of near-duplicates."""
        return has_groups(self.rows.tables)

    def read_rows(self, ids: IdRange, *, groups: bool) -> pa.Table:
        """Read the row groups that hold the ids."""
        file = self.data_files[ids.file]
        names = ["id", *self.schema.names, *(GROUP_SCHEMA.names if groups else ())]
        found = []
        for group in self.rows.row_groups_of(file):
            first, last = self.rows.id_bounds(group)
            if first < ids.end and last >= ids.first:
                rows = self.rows.read(group, names)
                keep = pc.and_(pc.greater_equal(rows["id"], ids.first), pc.less(rows["id"], ids.end))
                found.append(rows.filter(keep))
        schema = pa.schema([("id", pa.int64()), *self.schema, *(GROUP_SCHEMA if groups else ())])
        return pa.concat_tables(found).cast(schema) if found else schema.empty_table()
