"""Units of counting: divide files into units, and read the rows of a unit.

A unit is some parquet files, or some row groups of one file, of one subset. Small files share a unit, because a unit
has a fixed cost (arrays of 3.5 MB) and its most frequent values are exact. A large file is split, so that all cores
have work.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.errors import DatasetError, said_by
from dataset.formats.manifest import OutputKind, outputs
from dataset.formats.releases import SUBSETS, FileKind, Release
from dataset.formats.side_tables import read_side_tables, score_tables
from dataset.stats.columns import find_columns
from dataset.stats.saved import SUFFIX
from dataset.store.store import Store

SAVED_FOLDER = "stats/counts"
"""Folder in a release; its files have the names of the data files."""
UNIT_BYTES = 64 << 20
UNIT_ROWS = 1 << 20
BATCH_ROWS = 131_072
SCORES = ("punsafe", "pwatermark", "aesthetic")
"""Columns whose values in side tables take the place of the release's own."""


class StatsError(DatasetError):
    """There is nothing to count, or a file cannot be read."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A file, or the row groups of it that are counted."""

    path: str
    groups: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows counted together. `saved` is the path of their saved counts, or ''; `sha256` is the data file's; `tags` are
    the paths of side tables' files by score (see tagged.py).
    """

    subset: str
    pieces: tuple[Piece, ...]
    saved: str = ""
    sha256: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows, and the file's own names of those of COLUMNS that it has."""

    names: Mapping[str, str]
    rows: pa.RecordBatch
    path: str
    """The file of the rows, or the first of several files."""


def units_of_folder(store: Store, paths: Sequence[str] | None = None) -> Iterator[Unit]:
    """Yield the units of all parquet files in a folder and below it, or of `paths`.

    A file's subset is given by a folder named like it, or as LAION names folders (laion2B-en); '' if there is none.

    Raises: StatsError when there is no parquet file.
    """
    found = [path for path in store.list() if path.endswith(".parquet")] if paths is None else paths
    if not found:
        raise StatsError(f"{store.uri} has no parquet file: name a folder of parquet tables, or one table.")
    small: list[tuple[str, str, int]] = []
    for path in found:
        size = store.size(path)
        if size <= UNIT_BYTES:
            small.append((subset_of(path), path, size))
            continue
        for groups in _groups(store, path):
            yield Unit(subset_of(path), (Piece(path, groups),))
    yield from _together(small, UNIT_BYTES)


@dataclass(frozen=True, slots=True)
class PartUnits:
    """The units of the parts of a run, or of all runs, as the manifest lists them; each iteration reads the manifest
    again.
    """

    store: Store
    run: str | None = None

    def __iter__(self) -> Iterator[Unit]:
        parts = outputs(self.store, kind=OutputKind.PART, run=self.run)
        yield from units_of_parts((part.subset or "", f"{part.path}.parquet", part.samples) for part in parts)


def units_of_release(release: Release) -> Iterator[Unit]:
    """Yield a unit per data file; its counts are saved with the release and belong to the file's sha256."""
    tables = score_tables(read_side_tables(release), SCORES)
    for file in release.files(FileKind.DATA):
        saved = release.path(saved_path(file.path))
        found = ((score, table.file_of(file)) for score, table in tables.items())
        tags = {score: release.path(side.path) for score, side in found if side is not None}
        yield Unit(file.subset, (Piece(release.path(file.path)),), saved, file.sha256, tags)


def saved_path(data_file: str) -> str:
    """Return the path in a release at which the counts of a data file are saved."""
    return f"{SAVED_FOLDER}/{data_file.removeprefix(f'{FileKind.DATA}/').removesuffix('.parquet')}{SUFFIX}"


def units_of_parts(parts: Iterable[tuple[str, str, int]]) -> Iterator[Unit]:
    """Yield the units of parts, given as (subset, path, rows)."""
    yield from _together(parts, UNIT_ROWS)


def subset_of(path: str) -> str:
    """Return the subset that a path names, '' if none."""
    for folder in path.split("/"):
        if folder.rpartition("-")[2] in SUBSETS:
            return folder.rpartition("-")[2]
    return ""


def _together(files: Iterable[tuple[str, str, int]], limit: int) -> Iterator[Unit]:
    """Group files of a subset into units of about `limit`; a unit's files keep their order."""
    waiting: dict[str, tuple[list[Piece], int]] = {}
    for subset, path, size in files:
        pieces, total = waiting.setdefault(subset, ([], 0))
        pieces.append(Piece(path))
        if total + size >= limit:
            del waiting[subset]
            yield Unit(subset, tuple(pieces))
        else:
            waiting[subset] = (pieces, total + size)
    for subset, (pieces, _) in sorted(waiting.items()):
        yield Unit(subset, tuple(pieces))


def _groups(store: Store, path: str) -> Iterator[tuple[int, ...]]:
    """Divide a file's row groups into runs of about UNIT_ROWS."""
    with _opened(store, path) as file:
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    groups: list[int] = []
    for group, count in enumerate(rows):
        groups.append(group)
        if sum(rows[each] for each in groups) + count > UNIT_ROWS:
            yield tuple(groups)
            groups = []
    if groups:
        yield tuple(groups)


def read_unit(store: Store, unit: Unit) -> Iterator[Batch]:
    """Yield a unit's rows in large batches: rows of small files with the same columns are joined.

    Counting a batch has a fixed cost of some 10 ms, as long as counting the rows of eight parts.

    Raises: as `read_batches`.
    """
    waiting: list[Batch] = []
    for piece in unit.pieces:
        for batch in read_batches(store, piece):
            if waiting and (batch.rows.schema != waiting[0].rows.schema or _rows(waiting) >= BATCH_ROWS // 2):
                yield _together_in_one(waiting)
                waiting = []
            waiting.append(batch)
    if waiting:
        yield _together_in_one(waiting)


def _rows(batches: Sequence[Batch]) -> int:
    return sum(batch.rows.num_rows for batch in batches)


def _together_in_one(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches([batch.rows for batch in batches]).combine_chunks()
    rows = next(iter(table.to_batches()), batches[0].rows)
    return Batch(batches[0].names, rows, batches[0].path)


def read_batches(store: Store, piece: Piece, columns: Sequence[str] | None = None) -> Iterator[Batch]:
    """Yield a piece's rows in batches, with the file's own names of the columns; only `columns`, if given.

    Raises: StatsError when the file is missing or damaged, or has none of the columns.
    """
    with _opened(store, piece.path) as file:
        names = find_columns(file.schema_arrow.names, piece.path)
        wanted = {column: name for column, name in names.items() if columns is None or column in columns}
        groups = range(file.num_row_groups) if piece.groups is None else piece.groups
        for batch in file.iter_batches(BATCH_ROWS, [*groups], [*wanted.values()], use_threads=False):
            yield Batch(wanted, batch, piece.path)


@contextmanager
def _opened(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    with store.open_input(path) as source:
        try:
            yield pq.ParquetFile(source)
        except (pa.ArrowException, OSError) as error:
            raise StatsError(
                f"{path} in {store.uri} is not a parquet file, or is damaged ({said_by(error)}): get it again."
            ) from error
