"""The files phase: write one file of the result, with the rows of pictures, the rows of texts, or the metadata."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.npy import NpyRows, open_rows, write_header
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
from dataset.release_embeddings.sources import Source
from dataset.store.store import Store, StoreError

Integers = npt.NDArray[np.int64]

_COPIED_BYTES = 16 << 20
"""Bytes of vectors that are copied at a time."""
_INFINITE, _NEGATIVE = 0x7C00, 0x8000
"""The exponent of a float16 that is infinite or not a number, and the sign."""


class Content(StrEnum):
    """What a file holds; the value names its unit."""

    IMAGES = "images"
    TEXTS = "texts"
    METADATA = "metadata"


_PATHS = {Content.IMAGES: image_path, Content.TEXTS: text_path, Content.METADATA: metadata_path}


@dataclass(frozen=True, slots=True)
class FileUnit:
    """One of the files `at`: rows `start` to below `end` of the result."""

    at: int
    content: Content
    start: int
    end: int
    dimensions: int

    @property
    def name(self) -> str:
        """The unit's name, one for each file."""
        return f"{self.at:06d}-{self.content.value}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of one source, which has `count` rows, that are in a file, and their ids."""

    store: Store
    source: Source
    count: int
    rows: Integers
    ids: Integers

    def check(self, rows: int) -> None:
        """Raise ReleaseEmbeddingsError when the source has another number of rows than it had."""
        if rows != self.count:
            raise ReleaseEmbeddingsError(f"{self.source.metadata} has changed: start again with --restart.")


def write_file(
    work: Work, unit: FileUnit, unit_rows: Sequence[int], source_rows: Sequence[Sequence[int]]
) -> EmbeddingsFile:
    """Write a file, and return its entry for the record.

    Raises: ReleaseEmbeddingsError when a row is zero or not finite, or a source has changed; StoreError.
    """
    path = _PATHS[unit.content](unit.at)
    pieces = _pieces(work, unit, unit_rows, source_rows)
    with work.release.store.write(work.output_path(path)) as opened:
        file = HashedFile(opened)
        if unit.content is Content.METADATA:
            _write_metadata(pieces, file, foreign=bool(work.plan.foreign))
        else:
            write_header(file, unit.end - unit.start, unit.dimensions)  # type: ignore[arg-type]
            for piece in pieces:
                source = piece.source.images if unit.content is Content.IMAGES else piece.source.texts
                vectors = open_rows(piece.store, source)
                piece.check(vectors.rows)
                _copy_rows(vectors, piece.rows, file, source)
    return EmbeddingsFile(path=path, rows=unit.end - unit.start, bytes=file.bytes, sha256=file.sha256)


def _write_metadata(pieces: Iterator[_Piece], file: HashedFile, *, foreign: bool) -> None:
    with metadata_writer(file) as writer:
        waiting: list[pa.Table] = []
        for piece in pieces:
            waiting.append(_about(piece, foreign=foreign))
            if sum(map(len, waiting)) >= ROW_GROUP_ROWS:
                waiting = _write_groups(writer, waiting)
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def _write_groups(writer: pq.ParquetWriter, waiting: list[pa.Table]) -> list[pa.Table]:
    """Write whole row groups and return the remaining rows, because the bytes must not depend on the groups in which
    rows arrive.
    """
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
        store = work.source_store(sources[0])
        begins = np.concatenate(([0], np.cumsum(source_rows[at])))
        for number, source in enumerate(sources):
            low, high = np.searchsorted(wanted, begins[number]), np.searchsorted(wanted, begins[number + 1])
            if low < high:
                rows = wanted[low:high]
                yield _Piece(store, source, source_rows[at][number], rows - begins[number], ids[rows])


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
            found = np.take(found, chosen - chosen[0], axis=0)
        if vectors.dtype != np.float16:
            wide = found.astype(np.float32)
            found = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)
        # Read as integers, all that is not finite is at the end of the positive ones, or of the negative ones.
        if found.view(np.int16).max() >= _INFINITE or found.view(np.uint16).max() >= _NEGATIVE | _INFINITE:
            broken = (found.view(np.uint16) & _INFINITE) == _INFINITE
            row = int(chosen[np.flatnonzero(broken.any(axis=1))[0]])
            raise ReleaseEmbeddingsError(f"Row {row} of {path} is not finite: embed its shard again.")
        file.write(np.ascontiguousarray(found).data.cast("B"))


def _about(piece: _Piece, *, foreign: bool) -> pa.Table:
    columns = ["url", "caption"] if foreign else ["hash", "url", "caption"]
    try:
        metadata = pq.ParquetFile(piece.store.open_input(piece.source.metadata))
        piece.check(metadata.metadata.num_rows)
        rows = metadata.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{piece.source.metadata} cannot be read ({error}): embed its shard again.") from error
    if len(piece.rows) < len(rows):
        rows = rows.take(pa.array(piece.rows))
    if foreign:
        pairs = zip(rows["url"].to_pylist(), rows["caption"].to_pylist(), strict=True)
        hashes = pa.array([pair_hash(url or "", text or "") for url, text in pairs], pa.int64())
        rows = rows.append_column("hash", hashes)
    rows = rows.append_column("id", pa.array(piece.ids)).select(METADATA_SCHEMA.names)
    return rows.cast(METADATA_SCHEMA).replace_schema_metadata(None)
