"""Scan phase: every row of a release is compared with the deny lists, one data file with its companions at a time.

What it finds is hidden from select and search at once (`dataset.takedown.screen` reads it).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.releases import FileKind, Release, ReleaseFile
from dataset.formats.takedowns import FOUND_SCHEMA, TakedownError
from dataset.publish.deny import DenyRules

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Companions:
    """The files of each kind that belong to the data files, by the first id."""

    release: Release

    @cached_property
    def _by_first_id(self) -> Mapping[tuple[FileKind, str | None, int], ReleaseFile]:
        return {(file.kind, file.variant, file.first_id): file for file in self.release.record.files
                if file.kind is not FileKind.IDS}  # fmt: skip

    def of(self, data: ReleaseFile, kind: FileKind, variant: str | None = None) -> ReleaseFile | None:
        """Return the file of a kind that belongs to a data file."""
        return self._by_first_id.get((kind, variant, data.first_id))


def data_files(release: Release) -> list[ReleaseFile]:
    """Return the data files, in the order of their ids."""
    return sorted(release.files(FileKind.DATA), key=lambda file: file.first_id)


def scan_file(
    release: Release, rules: Mapping[str, DenyRules], companions: Companions, data: ReleaseFile, path: str
) -> int:
    """Compare the rows of a data file with the rules of each reason, and write the denied ones to `path` in the
    store unless they are there; return how many there are.

    Raises: TakedownError when a file cannot be read; StoreError.
    """
    if release.store.exists(path):
        return len(release.store.read_table(path, ["id"]))
    tables = []
    for rows in read_rows(release, companions, data, frozenset().union(*(one.columns for one in rules.values()))):
        reasons = denied(rows, rules)
        tables.append(pa.table({"id": rows["id"], "reason": reasons}, schema=FOUND_SCHEMA).drop_null())
    found = pa.concat_tables([FOUND_SCHEMA.empty_table(), *tables])
    release.store.write_table(path, found)
    return len(found)


def denied(rows: pa.Table, rules: Mapping[str, DenyRules]) -> pa.Array:
    """Return the first reason for which each row is denied, null for none -> (N,) string."""
    reasons = np.full(len(rows), None, object)
    for reason, one in rules.items():
        mask = one.matches(rows) & (reasons == None)  # noqa: E711  # by element
        reasons[mask] = reason
    return pa.array(reasons, pa.string())


def rows_of_ids(release: Release, companions: Companions, ids: Integers, columns: Iterable[str]) -> pa.Table:
    """Return `id` and columns of the rows with these ids, which are sorted; rows that are not there are left out.

    Raises: TakedownError when a file cannot be read; StoreError.
    """
    tables = []
    for data in data_files(release):
        some = ids[slice(*np.searchsorted(ids, (data.first_id, data.last_id + 1)))]
        if len(some):
            found = read_rows(release, companions, data, columns, only=some)
            tables += [rows.filter(pa.array(np.isin(rows["id"].to_numpy(), some))) for rows in found]
    return pa.concat_tables(tables) if tables else pa.table({"id": pa.array([], pa.int64())})


def read_rows(
    release: Release, companions: Companions, data: ReleaseFile, columns: Iterable[str], *, only: Integers | None = None
) -> Iterator[pa.Table]:
    """Yield `id` and columns of a data file's rows, a row group at a time, those of its companions joined by id.

    Row groups that have none of the sorted ids `only` are passed over.

    Raises: TakedownError when a file cannot be read, or a companion lacks rows; StoreError.
    """
    wanted = sorted({*columns} - {"id"})
    others: list[tuple[_Rows, list[str]]] = []
    with _Rows(release, data) as main:
        for kind in (FileKind.EXTENDED, FileKind.SOURCE):
            file = companions.of(data, kind)
            if file is not None and any(name not in main.names for name in wanted):
                opened = _Rows(release, file)
                names = [name for name in wanted if name in opened.names and name not in main.names]
                others.append((opened, names))
        known = {*main.names, *(name for _, names in others for name in names)}
        if missing := [name for name in wanted if name not in known]:
            raise TakedownError(
                f"{data.path} of {release.record.name} has no file with the column {missing[0]}: apply takedowns in "
                "the store where the release was published."
            )
        for group in main.groups_of(only):
            rows = main.read(group, ["id", *(name for name in wanted if name in main.names)])
            ids = rows["id"].to_numpy()
            for opened, names in others:
                if names and len(ids):
                    taken = opened.at(ids, names)
                    for name in names:
                        rows = rows.append_column(name, taken[name])
            yield rows
    for opened, _ in others:
        opened.close()


class _Rows:
    """A parquet file of a release, sorted by id."""

    def __init__(self, release: Release, file: ReleaseFile) -> None:
        self._path = release.path(file.path)
        try:
            self._file = release.store.open_input(self._path)
            self._parquet = pq.ParquetFile(self._file)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error
        self.names: Sequence[str] = self._parquet.schema_arrow.names
        self.groups = self._parquet.num_row_groups
        place = self._parquet.schema_arrow.get_field_index("id")
        told = [self._parquet.metadata.row_group(at).column(place).statistics for at in range(self.groups)]
        self._last = np.array([one.max for one in told], np.int64)
        self._first = np.array([one.min for one in told], np.int64)

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def groups_of(self, ids: Integers | None) -> Sequence[int]:
        """Return the row groups that may have one of these sorted ids; all if None."""
        if ids is None:
            return range(self.groups)
        low, high = np.searchsorted(ids, self._first), np.searchsorted(ids, self._last, side="right")
        return np.flatnonzero(low < high).tolist()

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read columns of a row group."""
        try:
            return self._parquet.read_row_group(group, columns=[*columns], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def at(self, ids: Integers, columns: Sequence[str]) -> pa.Table:
        """Return columns of the rows with these ids, which are sorted."""
        low, high = np.searchsorted(self._last, ids[0]), np.searchsorted(self._first, ids[-1], side="right")
        tables = [self.read(group, ["id", *columns]) for group in range(int(low), int(high))]
        rows = pa.concat_tables(tables) if tables else None
        places = np.searchsorted(rows["id"].to_numpy(), ids) if rows is not None else None
        if rows is None or places is None or len(rows) <= places[-1] or not _equal(rows["id"], places, ids):
            raise TakedownError(f"{self._path} lacks rows of its data file: restore it from a copy.")
        return rows.take(pa.array(places))

    def _damaged(self, error: object) -> TakedownError:
        return TakedownError(f"{self._path} cannot be read ({' '.join(str(error).split())}): restore it from a copy.")


def _equal(column: pa.ChunkedArray, places: Integers, ids: Integers) -> bool:
    return bool((column.to_numpy()[places] == ids).all())
