"""Release phase: a touched data file and its companions are rewritten, with the row groups that they had.

A group without a removed row comes out in the bytes that it had, if the library that writes is the one that wrote. In
`source/` a removed row is blanked, because its place is its id. Statistics of the file are counted anew, and only its.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.release_parquet import TableWriter, table_writer
from dataset.formats.releases import HOST_COUNTS_SCHEMA, FileKind, Release, ReleaseFile
from dataset.formats.takedowns import TakedownError
from dataset.publish.hosts import HostCounts
from dataset.stats.columns import find_columns
from dataset.stats.rows import RowCounter
from dataset.stats.saved import counts_to_bytes
from dataset.stats.units import saved_path
from dataset.takedown.scan import Companions

Integers = npt.NDArray[np.int64]
Change = Callable[[pa.Table], pa.Table]

_KEPT_IN_SOURCE = ("id",)


def rewrite_file(release: Release, companions: Companions, data: ReleaseFile, ids: Integers) -> list[dict[str, Any]]:
    """Rewrite a data file and its companions without rows, given by their ids; return the entries for the record.

    Raises: TakedownError when a file cannot be read; StoreError. Called again, it writes the same bytes.
    """
    wanted = pa.array(ids)
    hosts, counter = HostCounts(), RowCounter(data.subset)

    def without(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.invert(pc.is_in(rows["id"], wanted)))

    def counted(rows: pa.Table) -> pa.Table:
        kept = without(rows)
        if len(kept):
            hosts.add(kept)
            counter.add(kept.combine_chunks().to_batches()[0], find_columns(kept.column_names, data.path))
        return kept

    written = [_rewrite(release, data, counted)]
    for kind, variant, change in (
        (FileKind.EXTENDED, None, without),
        *((FileKind.VARIANT, name, without) for name in release.record.options.variants),
        (FileKind.SOURCE, None, lambda rows: _blank(rows, wanted)),
    ):
        file = companions.of(data, kind, variant)
        if file is not None:
            written.append(_rewrite(release, file, change))
    file = companions.of(data, FileKind.HOSTS)
    if file is not None:
        with table_writer(release.store, release.path(file.path), HOST_COUNTS_SCHEMA) as writer:
            writer.write(hosts.table())
        written.append(_entry(file, writer))
    release.store.put(release.path(saved_path(data.path)), counts_to_bytes(counter.finish(), written[0].sha256))
    return [asdict(entry) for entry in written]


def rewrite_groups(release: Release, path: str, change: Change, target: str = "") -> TableWriter:
    """Write what `change` makes of each row group of a release's parquet file to `target`, by default in its place.

    Raises: TakedownError when it cannot be read; StoreError when it cannot be written, and is as it was.
    """
    with (
        _opened(release, path) as parquet,
        table_writer(release.store, release.path(target or path), parquet.schema_arrow.remove_metadata()) as writer,
    ):
        for group in _groups(parquet, path):
            writer.write_group(change(group))
    return writer


def _rewrite(release: Release, file: ReleaseFile, change: Change) -> ReleaseFile:
    return _entry(file, rewrite_groups(release, file.path, change))


def _entry(file: ReleaseFile, writer: TableWriter) -> ReleaseFile:
    return replace(file, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)


def _blank(rows: pa.Table, ids: pa.Array) -> pa.Table:
    """Blank what leads from removed rows to their source."""
    gone = pc.is_in(rows["id"], ids)
    for at, field in enumerate(rows.schema):
        if field.name not in _KEPT_IN_SOURCE:
            rows = rows.set_column(at, field, pc.if_else(gone, pa.scalar(None, field.type), rows.column(at)))
    return rows


def _groups(parquet: pq.ParquetFile, path: str) -> Iterator[pa.Table]:
    for at in range(parquet.num_row_groups):
        try:
            yield parquet.read_row_group(at, use_threads=False).replace_schema_metadata(None)
        except (OSError, pa.ArrowException) as error:
            raise TakedownError(f"{path} cannot be read ({_line(error)}): restore it from a copy.") from error


@contextmanager
def _opened(release: Release, path: str) -> Iterator[pq.ParquetFile]:
    with release.store.open_input(release.path(path)) as file:
        try:
            parquet = pq.ParquetFile(file)
        except (OSError, pa.ArrowException) as error:
            raise TakedownError(f"{path} cannot be read ({_line(error)}): restore it from a copy.") from error
        yield parquet


def _line(error: object) -> str:
    return " ".join(str(error).split())


def file_digest(release: Release, path: str) -> tuple[int, str]:
    """Return the bytes and the sha256 of a file of a release.

    Raises: StoreError when it is missing.
    """
    digest, size = hashlib.sha256(), 0
    with release.store.open_input(release.path(path)) as file:
        while data := file.read(1 << 24):
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()
