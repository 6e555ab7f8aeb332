"""Files phase: one file of the result, with its pictures' rows, texts' rows and metadata."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.npy import NpyRows, write_header
from dataset.formats.parts import pair_hash
from dataset.formats.release_embeddings import (
    METADATA_SCHEMA,
    EmbeddingsFile,
    ReleaseEmbeddingsError,
    image_path,
    metadata_path,
    metadata_writer,
    text_path,
)
from dataset.formats.release_parquet import HashedFile
from dataset.formats.releases import ROW_GROUP_ROWS
from dataset.release_embeddings.layout import read_ids
from dataset.release_embeddings.match import NO_ID
from dataset.release_embeddings.plan import Work
from dataset.release_embeddings.sources import OpenSource, Source, open_source

Integers = npt.NDArray[np.int64]

_COPIED_BYTES = 16 << 20
"""Bytes of vectors that are copied at a time."""
_INFINITE = np.uint16(0x7C00)
"""The exponent of a float16 that is infinite or not a number."""


@dataclass(frozen=True, slots=True)
class FileUnit:
    """File `at`: rows `start` to below `end` of the result."""

    at: int
    start: int
    end: int
    dimensions: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one source that are in a file, and their ids."""

    source: OpenSource
    name: Source
    rows: Integers
    ids: Integers


def write_file(
    work: Work, unit: FileUnit, unit_rows: Sequence[int], source_rows: Sequence[Sequence[int]]
) -> list[EmbeddingsFile]:
    """Write the three files of a unit, and return their entries for the record.

    Raises: ReleaseEmbeddingsError when a row has no direction; StoreError.
    """
    store = work.release.store
    paths = (image_path(unit.at), text_path(unit.at), metadata_path(unit.at))
    with ExitStack() as stack:
        images, texts, metadata = (
            HashedFile(stack.enter_context(store.write(work.output_path(path)))) for path in paths
        )
        for file in (images, texts):
            write_header(file, unit.end - unit.start, unit.dimensions)  # type: ignore[arg-type]
        writer = stack.enter_context(metadata_writer(metadata))
        waiting: list[pa.Table] = []
        for piece in _pieces(work, unit, unit_rows, source_rows):
            _copy_rows(piece.source.images, piece.rows, images, piece.name.images)
            _copy_rows(piece.source.texts, piece.rows, texts, piece.name.texts)
            waiting.append(_about(piece, foreign=bool(work.plan.foreign)))
            if sum(map(len, waiting)) >= ROW_GROUP_ROWS:
                waiting = _write_groups(writer, waiting)
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
    files = zip(paths, (images, texts, metadata), strict=True)
    return [
        EmbeddingsFile(path=path, rows=unit.end - unit.start, bytes=file.bytes, sha256=file.sha256)
        for path, file in files
    ]


def _write_groups(writer: pq.ParquetWriter, waiting: list[pa.Table]) -> list[pa.Table]:
    """Write whole row groups, and return what is left: the bytes must not depend on how rows arrive."""
    rows = pa.concat_tables(waiting)
    while len(rows) >= ROW_GROUP_ROWS:
        writer.write_table(rows.slice(0, ROW_GROUP_ROWS).combine_chunks())
        rows = rows.slice(ROW_GROUP_ROWS)
    return [rows] if len(rows) else []


def _pieces(
    work: Work, unit: FileUnit, unit_rows: Sequence[int], source_rows: Sequence[Sequence[int]]
) -> Iterator[_Piece]:
    """Yield the rows of a file, source after source."""
    done = 0
    for at, count in enumerate(unit_rows):
        first, last = max(unit.start, done) - done, min(unit.end, done + count) - done
        done += count
        if first >= last:
            continue
        ids = read_ids(work, "layout", at)
        wanted = np.flatnonzero(ids != NO_ID)[first:last]
        sources = work.sources(at)
        store = work.release.input_store(sources[0].store)
        begins = np.concatenate(([0], np.cumsum(source_rows[at])))
        for number, source in enumerate(sources):
            low, high = np.searchsorted(wanted, begins[number]), np.searchsorted(wanted, begins[number + 1])
            if low < high:
                opened = open_source(store, source)
                if opened is None or opened.rows != source_rows[at][number]:
                    raise ReleaseEmbeddingsError(f"{source.metadata} has changed: begin anew with --restart.")
                yield _Piece(opened, source, wanted[low:high] - begins[number], ids[wanted[low:high]])


def _copy_rows(vectors: NpyRows, rows: Integers, file: HashedFile, path: str) -> None:
    """Append rows as float16 unit rows.

    Raises: ReleaseEmbeddingsError when one is not finite.
    """
    step = max(1, _COPIED_BYTES // vectors.row_bytes)
    for start in range(int(rows[0]), int(rows[-1]) + 1, step):
        chosen = rows[(rows >= start) & (rows < start + step)]
        if not len(chosen):
            continue
        found = vectors.read(int(chosen[0]), int(chosen[-1]) + 1)
        if len(chosen) < len(found):
            found = found[chosen - chosen[0]]
        if vectors.dtype != np.float16:
            wide = found.astype(np.float32)
            found = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)
        broken = (found.view(np.uint16) & _INFINITE) == _INFINITE
        if broken.any():
            row = int(chosen[np.flatnonzero(broken.any(axis=1))[0]])
            raise ReleaseEmbeddingsError(f"Row {row} of {path} is not finite: embed its shard again.")
        file.write(np.ascontiguousarray(found).data.cast("B"))


def _about(piece: _Piece, *, foreign: bool) -> pa.Table:
    columns = ["url", "caption"] if foreign else ["hash", "url", "caption"]
    rows = piece.source.metadata.read(columns=columns, use_threads=False)
    if len(piece.rows) < len(rows):
        rows = rows.take(pa.array(piece.rows))
    if foreign:
        pairs = zip(rows["url"].to_pylist(), rows["caption"].to_pylist(), strict=True)
        hashes = pa.array([pair_hash(url or "", text or "") for url, text in pairs], pa.int64())
        rows = rows.append_column("hash", hashes)
    rows = rows.append_column("id", pa.array(piece.ids)).select(METADATA_SCHEMA.names)
    return rows.cast(METADATA_SCHEMA).replace_schema_metadata(None)
