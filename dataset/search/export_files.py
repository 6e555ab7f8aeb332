"""The files of exports: parquet, CSV and JSON lines, written in chunks of rows."""

import csv
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dataset import strict_json
from dataset.search.answers import to_json

Row = Mapping[str, Any]


class ExportFormat(StrEnum):
    """The format of an export; also the ending of the file's name."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON_LINES = "jsonl"


MEDIA_TYPES = {
    ExportFormat.PARQUET: "application/vnd.apache.parquet",
    ExportFormat.CSV: "text/csv",
    ExportFormat.JSON_LINES: "application/jsonl",
}


class ExportWriter(Protocol):
    """A file that is being written."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows, which have all columns."""

    def close(self) -> None:
        """End the file."""


def open_writer(path: Path, kind: ExportFormat, columns: Sequence[str]) -> ExportWriter:
    """Return a writer of rows with `id` (int64), `similarity_to_query` (float32 in parquet), and these columns."""
    names = ("id", "similarity_to_query", *columns)
    match kind:
        case ExportFormat.PARQUET:
            return _Parquet(path, names)
        case ExportFormat.CSV:
            return _Csv(path, names)
        case ExportFormat.JSON_LINES:
            return _JsonLines(path)


class _Parquet:
    """The first chunk decides about types; a column in which it has only nulls becomes text."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names = path, names
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: Sequence[Row]) -> None:
        kinds = {"id": pa.int64(), "similarity_to_query": pa.float32()}
        table = pa.table({name: pa.array([row[name] for row in rows], kinds.get(name)) for name in self._names})
        if self._writer is None:
            schema = pa.schema(
                [(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in table.schema]
            )
            self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self._writer.write_table(table.cast(self._writer.schema))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Csv:
    """RFC 4180, with a header; lists and the like are JSON. Text that a spreadsheet would run begins with an '."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._file = path.open("w", encoding="utf-8", errors="replace", newline="")
        self._names = names
        self._csv = csv.writer(self._file)
        self._csv.writerow(names)

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            plain = json.loads(to_json(row))
            self._csv.writerow([_cell(plain[name]) for name in self._names])

    def close(self) -> None:
        self._file.close()


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: Sequence[Row]) -> None:
        self._file.writelines(map(to_json, rows))

    def close(self) -> None:
        self._file.close()


def _cell(value: object) -> object:
    match value:
        case str() if value.startswith(("=", "+", "-", "@", "\t", "\r")):
            return f"'{value}"
        case list() | dict() | bool():
            return strict_json.dumps(value, ensure_ascii=False)
    return value
