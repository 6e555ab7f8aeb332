"""Parquet files of rows by hash or id, in any order and of any size, divided into units of row groups."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.side_tables import SideTableError
from dataset.recipe.extra_columns import ExtraError, arrow_type, type_name
from dataset.store.local_paths import is_file
from dataset.store.store import Store, StoreError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ROW_BYTES = 64
"""Memory per row while its id is looked up, in addition to its columns."""


class JoinOn(StrEnum):
    """The column by which rows are joined; the value is its name."""

    HASH = "hash"
    ID = "id"


@dataclass(frozen=True, slots=True)
class Unit:
    """Row groups of one file."""

    path: str
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TableSource:
    """Parquet files with a key column and the columns to join."""

    store: Store
    paths: tuple[str, ...]
    on: JoinOn
    columns: pa.Schema

    @classmethod
    def open(cls, uri: str, on: JoinOn, columns: Sequence[str] | None) -> Self:
        """Open a file, or all parquet files of a folder; without `columns`, use all columns except ids, hashes, URL and
        TEXT.

        Raises: SideTableError when a column is missing or of a type that side tables cannot have; StoreError.
        """
        if "://" not in uri and is_file(Path(uri)):
            store, paths = Store.open(str(Path(uri).parent), writable=False), [Path(uri).name]
        else:
            store = Store.open(uri, writable=False)
            paths = [path for path in store.list() if path.endswith(".parquet")]
        if not paths:
            raise SideTableError(f"{uri} contains no parquet file: name a table, or a folder of tables.")
        schema = _opened(store, paths[0]).schema_arrow
        given = [name for name in schema.names if name not in ("hash", "id", "URL", "TEXT")]
        wanted = list(columns or given)
        missing = [name for name in (on.value, *wanted) if name not in schema.names]
        if missing:
            raise SideTableError(
                f"{paths[0]} has no column {', '.join(missing)}, only {', '.join(schema.names)}: see --on "
                "and --columns."
            )
        if not wanted:
            raise SideTableError(f"{paths[0]} has no column to join: it needs one in addition to {on.value}.")
        odd = next((name for name in wanted if not _NAME.fullmatch(name)), None)
        if odd is not None:
            raise SideTableError(
                f"The column {odd!r} of {paths[0]} cannot be named in an expression: rename it with letters, digits "
                "and '_', not a digit first, or leave it out with --columns."
            )
        fields = [schema.field(name) for name in wanted]
        for field in fields:
            try:
                arrow_type(type_name(field.type))
            except ExtraError as error:
                raise SideTableError(
                    f"The column {field.name} of {paths[0]} is of the type {field.type}, which a side table "
                    "cannot have: cast it to a number, a string or a list of them."
                ) from error
        return cls(store, tuple(paths), on, pa.schema([(field.name, field.type) for field in fields]))

    def units(self, unit_bytes: int) -> Iterator[Unit]:
        """Yield units of about this many bytes in memory; a row group is never divided."""
        for path in self.paths:
            metadata = _opened(self.store, path).metadata
            groups: list[int] = []
            size = 0
            for at in range(metadata.num_row_groups):
                group = metadata.row_group(at)
                needed = group.total_byte_size + group.num_rows * _ROW_BYTES
                if groups and size + needed > unit_bytes:
                    yield Unit(path, tuple(groups))
                    groups, size = [], 0
                groups.append(at)
                size += needed
            if groups:
                yield Unit(path, tuple(groups))

    def read(self, unit: Unit) -> pa.Table:
        """Read a unit's rows; the first column is the key as int64; NaN becomes null.

        Raises: SideTableError when a column is missing or of another type than in the first file.
        """
        try:
            rows = _opened(self.store, unit.path).read_row_groups(
                list(unit.groups), columns=[self.on.value, *self.columns.names], use_threads=False
            )
            rows = rows.select([self.on.value, *self.columns.names]).replace_schema_metadata(None)
            rows = rows.cast(pa.schema([(self.on.value, pa.int64()), *self.columns]))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise SideTableError(
                f"{unit.path} cannot be joined ({' '.join(str(error).split())}): all files need the columns and "
                f"types of {self.paths[0]}."
            ) from error
        for at, field in enumerate(rows.schema):
            if pa.types.is_floating(field.type):
                column = rows[field.name]
                valid = pc.fill_null(pc.invert(pc.is_nan(column)), False)  # Arrow's order
                rows = rows.set_column(at, field, pc.if_else(valid, column, pa.scalar(None, field.type)))
        return rows


def _opened(store: Store, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(store.open_input(path))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"{path} in {store.uri} cannot be read as parquet ({error}): name a table by hash or id."
        ) from error
