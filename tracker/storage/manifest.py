"""The manifest: the list of what exists in the store, written into it as manifest.parquet.

A worker that lost its lease can leave a complete file behind; so a file that the manifest does not list does not exist.
Publish, embed, index and search read the manifest, never a folder's listing.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tracker.database.database import Connection, query, translated
from tracker.errors import TrackerError
from tracker.storage.object_store import open_s3
from tracker.storage.whole_files import put_whole

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
        ("tar_bytes", pa.int64()),  # of <path>.tar: a shard's pictures, or those that a part keeps; 0: there is none
        ("tar_deleted_at", pa.timestamp("us", tz="UTC")),  # null: the tar is there
    ]
)


def open_store(uri: str) -> pafs.FileSystem:
    """The store as a file system rooted at it.

    Raises:
        TrackerError: the URI names no file system that is known.
    """
    try:
        if uri.startswith("s3://"):
            filesystem, root = open_s3(uri)
        elif "://" in uri:
            filesystem, root = pafs.FileSystem.from_uri(uri)
        else:
            filesystem, root = pafs.LocalFileSystem(), uri
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TrackerError(
            f"the store {uri.rpartition('@')[2]} cannot be opened: {error}; set SHOAL_STORE to a folder or a URI"
        ) from error
    return pafs.SubTreeFileSystem(root, filesystem)


def open_existing_store(uri: str) -> pafs.FileSystem:
    """The store as a file system rooted at it; a folder is not made here, since a wrong SHOAL_STORE would make one.

    Raises:
        TrackerError: the URI names no file system that is known, or a folder that is not there.
    """
    store = open_store(uri)
    if isinstance(store.base_fs, pafs.LocalFileSystem) and not Path(store.base_path).is_dir():
        raise TrackerError(
            f"the store {uri} is not there: set SHOAL_STORE to the workers' folder; the first worker makes it"
        )
    return store


def outputs(connection: Connection) -> pa.Table:
    """The manifest as a table of SCHEMA."""
    with translated():
        rows = connection.execute(query("outputs")).fetchall()
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_manifest(connection: Connection, uri: str) -> int:
    """Write manifest.parquet into the store, whole or not at all; the number of outputs that it lists."""
    store = open_existing_store(uri)
    table = outputs(connection)
    whole = pa.BufferOutputStream()
    pq.write_table(table, whole, compression="zstd")
    try:
        put_whole(store, NAME, whole.getvalue())
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"the manifest cannot be written to {uri}: {' '.join(str(error).split())}") from error
    return int(table.num_rows)
