"""Read the manifest, the list of all outputs in a store, as a stream of row groups.

Invariant: a file that the manifest does not list is not an output. Memory is bounded by one row group, even for a
manifest of 15 million outputs. `tracker.storage.manifest` writes the file; neither module imports the other, and a test
compares their schemas.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.errors import DatasetError
from dataset.store.store import Store, StoreError

MANIFEST = "manifest.parquet"
MANIFEST_SCHEMA = pa.schema(
    [
        ("output_id", pa.int64()),
        ("kind", pa.string()),  # an OutputKind
        ("run", pa.string()),
        ("path", pa.string()),  # the stem in the store
        ("job", pa.int64()),
        ("lease", pa.string()),
        ("subset", pa.string()),
        ("rows", pa.int64()),
        ("samples", pa.int64()),
        ("bytes", pa.int64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("tar_bytes", pa.int64()),  # size of <path>.tar, with the pictures of a shard or of a part; 0 without a tar
        ("tar_deleted_at", pa.timestamp("us", tz="UTC")),  # null while the tar exists
        ("source", pa.string()),  # for embeddings: the part, shard or tar that was embedded; null for other kinds
    ]
)
TRACKER_KEY, RUNS_KEY = "shoal.tracker", "shoal.runs"
"""Keys of the file's metadata: the tracker's UUID, and a JSON list of its runs' names."""

_RUNS_NAMED = 10
"""Maximum number of runs that an error lists."""


class OutputKind(StrEnum):
    """The kind of an output."""

    PACK = "pack"
    SHARD = "shard"
    PART = "part"
    EMBEDDINGS = "embeddings"
    INDEX = "index"
    DEDUP = "dedup"
    TAG = "tag"


@dataclass(frozen=True, slots=True)
class Output:
    """A row of the manifest: one job's files, all beginning with `path`; for builds over a release, one file."""

    output_id: int
    kind: OutputKind
    run: str
    path: str
    job: int
    lease: str
    subset: str | None
    rows: int
    samples: int
    bytes: int
    created_at: datetime
    tar_bytes: int
    tar_deleted_at: datetime | None
    source: str | None


class ManifestError(DatasetError):
    """The manifest cannot be used, or does not list what was requested."""


class OutputMissing(ManifestError):
    """A file that the manifest lists is not in the store."""


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """The metadata of a manifest."""

    tracker: UUID
    """The tracker that wrote it; sample keys are unique within a tracker."""
    runs: tuple[str, ...]
    """All of its runs, including runs without outputs."""

    @classmethod
    def read(cls, store: Store) -> Self:
        """Read the metadata of the manifest in `store`.

        Raises: ManifestError when it is missing or was written by another version; StoreError.
        """
        with _opened(store) as file:
            metadata = file.schema_arrow.metadata or {}
        try:
            return cls(UUID(metadata[TRACKER_KEY.encode()].decode()), tuple(json.loads(metadata[RUNS_KEY.encode()])))
        except (KeyError, ValueError, TypeError) as error:
            raise _outdated(store, f"it does not say which tracker wrote it: {error!r}") from error

    def require_run(self, run: str, store: Store) -> None:
        """Raise ManifestError unless the tracker has a run of this name."""
        if run not in self.runs:
            named = ", ".join(self.runs[:_RUNS_NAMED]) + (", …" if len(self.runs) > _RUNS_NAMED else "")
            raise ManifestError(
                f"{MANIFEST} in the store {store.uri} has no run {run!r}, only {named or 'none at all'}: check the "
                "name, or write the manifest again (tracker manifest)."
            )


def outputs(store: Store, *, kind: OutputKind | None = None, run: str | None = None) -> Iterator[Output]:
    """Yield the outputs that the manifest lists, in the order of their ids: all, or those of a kind or run.

    Raises: ManifestError at once when the manifest is missing or was written by another version, or the run is unknown;
    StoreError.
    """
    head = ManifestHead.read(store)
    if run is not None:
        head.require_run(run, store)
    return _stream(store, kind, run)


def open_output(store: Store, output: Output, ending: str = ".parquet") -> pa.NativeFile:
    """Open the file `<path><ending>` of an output; the caller closes it.

    Raises: OutputMissing when it was deleted after the manifest was written; StoreError when it cannot be read.
    """
    path = output.path + ending
    try:
        return store.open_input(path)
    except StoreError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise OutputMissing(
            f"{path} is listed in {MANIFEST} and is missing from the store {store.uri}: it was deleted after the "
            "manifest was written. Write the manifest again (tracker manifest) and start again, or restore the file."
        ) from error


def _stream(store: Store, kind: OutputKind | None, run: str | None) -> Iterator[Output]:
    with _opened(store) as file:
        for index in range(file.num_row_groups):  # iter_batches keeps everything it has read in memory
            rows = file.read_row_group(index, columns=MANIFEST_SCHEMA.names)
            for name, wanted in (("kind", kind), ("run", run)):
                if wanted is not None:
                    rows = rows.filter(pc.equal(rows[name], str(wanted)))
            for row in rows.to_pylist():
                yield Output(**row | {"kind": OutputKind(row["kind"])})


@contextmanager
def _opened(store: Store) -> Iterator[pq.ParquetFile]:
    """Open the manifest and check its columns."""
    try:
        source = store.open_input(MANIFEST)
    except StoreError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise ManifestError(
            f"{MANIFEST} is missing from the store {store.uri}: write it with tracker manifest, or check the store."
        ) from error
    with source:
        try:
            file = pq.ParquetFile(source)
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(
                f"{MANIFEST} in the store {store.uri} cannot be read ({error}): write it again with tracker manifest."
            ) from error
        found = {column.name: column.type for column in file.schema_arrow}
        for column in MANIFEST_SCHEMA:
            if found.get(column.name) != column.type:
                raise _outdated(store, f"its column {column.name} is missing or of another type")
        yield file


def _outdated(store: Store, reason: str) -> ManifestError:
    return ManifestError(
        f"{MANIFEST} in the store {store.uri} was written by another version of Shoal ({reason}): write it again with "
        "tracker manifest."
    )
