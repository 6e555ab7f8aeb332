"""The manifest: the list of all outputs in the store, written there as manifest.parquet.

A worker that lost its lease can leave a complete file behind, so only listed files are outputs.
`dataset.formats.manifest` reads the file; a test compares the two modules, since neither imports the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.rows import tuple_row

from tracker import strict_json
from tracker.database.database import Connection, query, translated
from tracker.errors import TrackerError
from tracker.storage.open import open_existing_store
from tracker.storage.whole_files import write_whole

NAME = "manifest.parquet"
SCHEMA = pa.schema(
    [
        ("output_id", pa.int64()),
        ("kind", pa.string()),
        ("run", pa.string()),
        ("path", pa.string()),
        ("job", pa.int64()),
        ("lease", pa.string()),
        ("subset", pa.string()),
        ("rows", pa.int64()),
        ("samples", pa.int64()),
        ("bytes", pa.int64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("tar_bytes", pa.int64()),  # size of <path>.tar, with the pictures of a shard or of a part; 0: no tar
        ("tar_deleted_at", pa.timestamp("us", tz="UTC")),  # null: the tar exists
        ("source", pa.string()),  # for embeddings: the part, shard or tar that was embedded; null for other kinds
    ]
)
TRACKER_KEY, RUNS_KEY = "shoal.tracker", "shoal.runs"
"""In the file's metadata: the tracker's uuid, and the names of its runs as a JSON list."""
ROW_GROUP_ROWS = 32_768
"""Rows that are fetched and written at a time; they take 30 MB of memory."""


@dataclass(frozen=True, slots=True)
class ListedOutputs:
    """The manifest of one moment, in a local file. Each iteration reads it again, one row group at a time."""

    path: Path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_pylist()


def list_outputs(connection: Connection, path: Path) -> ListedOutputs:
    """Write the manifest, as the open transaction sees it, into a local file; at most one row group is in memory.

    Raises:
        TrackerError: there is no room on the disk.
    """
    try:
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for batch in _batches(connection):
                writer.write_batch(batch)
    except OSError as error:
        raise TrackerError(
            f"the list of outputs cannot be kept in {path.parent} ({error}): it needs about 100 bytes per output; set "
            "TMPDIR to a folder with more space"
        ) from error
    return ListedOutputs(path)


def outputs(connection: Connection) -> pa.Table:
    """Return the whole manifest as a table of SCHEMA, in memory: for small crawls and tests."""
    with translated(), connection.transaction():
        return pa.Table.from_batches(_batches(connection), SCHEMA)


def write_manifest(connection: Connection, uri: str) -> int:
    """Write manifest.parquet into the store, whole or not at all; return the number of outputs.

    Runs and outputs are read in one snapshot, and at most one row group is in memory.

    Raises:
        TrackerError: the store cannot be written.
    """
    store = open_existing_store(uri)
    n = 0
    try:
        with write_whole(store, NAME) as file, translated(), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            schema = SCHEMA.with_metadata(_metadata(connection))
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in _batches(connection):
                    writer.write_batch(batch)
                    n += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"the manifest cannot be written to {uri}: {error}; check SHOAL_STORE") from error
    return n


def _metadata(connection: Connection) -> dict[str, str]:
    """Return the file's metadata: the tracker's uuid, and the names of its runs."""
    identity = connection.execute("SELECT tracker::text AS tracker FROM tracker.identity").fetchone()
    runs = connection.execute("SELECT name FROM tracker.run ORDER BY run_id").fetchall()
    assert identity is not None
    return {TRACKER_KEY: identity["tracker"], RUNS_KEY: strict_json.dumps([row["name"] for row in runs])}


def _batches(connection: Connection) -> Iterator[pa.RecordBatch]:
    """Yield the outputs by id, one row group at a time, from a cursor of the open transaction."""
    with connection.cursor(name="outputs", row_factory=tuple_row) as cursor:
        cursor.execute(query("outputs"))
        while rows := cursor.fetchmany(ROW_GROUP_ROWS):
            columns = zip(*rows, strict=True)
            yield pa.record_batch([pa.array(*of) for of in zip(columns, SCHEMA.types, strict=True)], SCHEMA)
