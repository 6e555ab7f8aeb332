"""The rows of a release, a row group of a data file at a time, with the columns of extended files and side tables.

Two columns are added here: `subset`, and LANGUAGE, which only the files of `multi` have: 'en' for English rows, null
for rows without a language.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.releases import FileKind, Release, ReleaseFile, data_schema, extended_schema
from dataset.formats.side_tables import SideTable, SideTableError, read_side_tables
from dataset.recipe.extra_columns import arrow_type
from dataset.store.store import StoreError


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Row group `at` of a data file."""

    file: ReleaseFile
    at: int


@dataclass(frozen=True, slots=True)
class ReleaseRows:
    """A release and its side tables."""

    release: Release
    tables: Mapping[str, SideTable] = field(default_factory=dict)

    @classmethod
    def open(cls, release: Release) -> "ReleaseRows":
        """Open the release together with its side tables."""
        return cls(release, read_side_tables(release))

    @property
    def data_schema(self) -> pa.Schema:
        """The columns of all subsets' data files, and `subset`."""
        data = data_schema("multi", aesthetic=self.release.record.aesthetic)
        return pa.schema([*data, ("subset", pa.string())])

    @property
    def selected_schema(self) -> pa.Schema:
        """The columns of a selection."""
        return self.data_schema

    @property
    def schema(self) -> pa.Schema:
        """All columns that an expression may use; those of side tables are called `table.column`."""
        own = self.data_schema
        extended = [one for one in extended_schema(self.release.record.columns) if one.name not in own.names]
        side = [
            (f"{table.name}.{name}", arrow_type(kind))
            for table in self.tables.values()
            for name, kind in table.columns.items()
        ]
        return pa.schema([*own, *extended, *side])

    def row_groups(self) -> Iterator[RowGroup]:
        """Yield the row groups in the order of their ids."""
        for file in self.release.files(FileKind.DATA):
            yield from self.row_groups_of(file)

    def row_groups_of(self, file: ReleaseFile) -> Iterator[RowGroup]:
        """Yield the row groups of a data file."""
        with self._opened(file.path) as parquet:
            groups = parquet.num_row_groups
        for at in range(groups):
            yield RowGroup(file, at)

    def id_bounds(self, group: RowGroup) -> tuple[int, int]:
        """Return the first and the last id of a row group, from its statistics."""
        with self._opened(group.file.path) as parquet:
            place = parquet.schema_arrow.get_field_index("id")
            statistics = parquet.metadata.row_group(group.at).column(place).statistics
        return int(statistics.min), int(statistics.max)

    def read(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Read columns of a row group, in this order.

        Raises: SideTableError when a file of the release is missing or damaged.
        """
        own = self.data_schema
        extended = extended_schema(self.release.record.columns).names
        with self._opened(group.file.path) as parquet:
            names = parquet.schema_arrow.names
            wanted = [name for name in ("id", *columns) if name in names]
            rows = parquet.read_row_group(group.at, columns=list(dict.fromkeys(wanted)), use_threads=False)
        other = [name for name in columns if name not in own.names and name in extended]
        if other:
            with self._opened(self._extended_path(group.file)) as parquet:
                found = parquet.read_row_group(group.at, columns=["id", *other], use_threads=False)
            if not found["id"].equals(rows["id"]):
                raise SideTableError(
                    f"{group.file.path} and its extended file have different rows: if a takedown is being applied, try "
                    "again after it; otherwise restore them from a copy."
                )
            for name in other:
                rows = rows.append_column(name, found[name])
        for name in columns:
            if "." in name:
                rows = rows.append_column(name, self._side_column(group.file, name, rows["id"]))
            elif name == "subset":
                rows = rows.append_column(name, pa.repeat(group.file.subset, len(rows)))
            elif name not in rows.column_names:
                english = name == "LANGUAGE" and group.file.subset == "en"
                nulls = pa.nulls(len(rows), own.field(name).type)
                rows = rows.append_column(name, pa.repeat("en", len(rows)) if english else nulls)
        return rows.select(list(columns))

    def _extended_path(self, data: ReleaseFile) -> str:
        for file in self.release.files(FileKind.EXTENDED, subset=data.subset, batch=data.batch):
            if file.first_id == data.first_id:
                return file.path
        raise SideTableError(f"{self.release.record.name} has no extended file for {data.path}: use its other columns.")

    def _side_column(self, data: ReleaseFile, name: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return a side table's column for these ids; null if it has no row."""
        table_name, _, column = name.partition(".")
        table = self.tables[table_name]
        kind = arrow_type(table.columns[column])
        file = table.file_of(data)
        if file is None:
            return pa.chunked_array([pa.nulls(len(ids), kind)])
        wanted = ids.to_numpy()
        low, high = int(wanted[0]), int(wanted[-1])
        with self._opened(file.path) as parquet:
            pieces = []
            place = parquet.schema_arrow.get_field_index("id")
            for at in range(parquet.num_row_groups):
                statistics = parquet.metadata.row_group(at).column(place).statistics
                if statistics is None or (statistics.min <= high and statistics.max >= low):
                    pieces.append(parquet.read_row_group(at, columns=["id", column], use_threads=False))
        if not pieces:
            return pa.chunked_array([pa.nulls(len(ids), kind)])
        rows = pa.concat_tables(pieces)
        known = rows["id"].to_numpy()
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found = pa.array(at, mask=known[at] != wanted)
        return pa.chunked_array([pc.take(rows[column].combine_chunks(), found)])

    def _opened(self, path: str) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.release.store.open_input(self.release.path(path)))
        except (StoreError, pa.ArrowException, OSError) as error:
            raise SideTableError(
                f"{path} of {self.release.record.name} {self.release.record.version} cannot be read "
                f"({' '.join(str(error).split())}): restore it from a copy, or use the live version."
            ) from error
