"""Make side tables from parquet files by hash or id, and from the embeddings of a second model."""

from functools import partial

import numpy as np
import pyarrow as pa

from dataset.formats.npy import open_rows
from dataset.formats.release_embeddings import (
    EmbeddingsRecord,
    ReleaseEmbeddingsError,
    embeddings_path,
    find_embeddings,
    image_path,
    metadata_path,
    text_path,
)
from dataset.formats.releases import FileKind, Release
from dataset.formats.side_tables import SideTableError
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.side_tables.write import Progress, UnitRows, Written, write_side_table

_MULTIPLIED_BYTES = 16 << 20
"""Bytes of vectors that are multiplied at a time."""
SIMILARITY = pa.schema([("similarity", pa.float32())])


def join_tables(
    release: Release,
    name: str,
    source: TableSource,
    *,
    said: str,
    memory_bytes: int = 1 << 30,
    threads: int = 1,
    on_progress: Progress = lambda *_: None,
) -> Written:
    """Write a side table from parquet files; `said` is their name in the record.

    Raises: SideTableError when they cannot be joined; StoreError.
    """
    if source.on is JoinOn.HASH and not any(True for _ in release.files(FileKind.IDS)):
        raise SideTableError(f"{release.record.name} has no ids/, which is private: join by id.")
    unit_bytes = memory_bytes // threads // 4  # the rows, sorted, and again while they are written
    units: list[UnitRows] = [partial(source.read, unit) for unit in source.units(unit_bytes)]
    return write_side_table(
        release, name, source.columns, units, on=source.on, source=said, threads=threads, on_progress=on_progress
    )


def join_similarity(
    release: Release, folder: str, *, threads: int = 1, on_progress: Progress = lambda *_: None
) -> Written:
    """Write `similarity_<model>`: the cosine of each row's picture and caption, by the embeddings in a folder.

    Raises: ReleaseEmbeddingsError when there are none; StoreError.
    """
    units: list[UnitRows] = []
    for batch in release.record.batches:
        record = find_embeddings(release, folder, batch.name)
        if record is not None:
            files = sum(file.path.startswith("metadata/") for file in record.files)
            units += [partial(_read_similarity, release, folder, record, at) for at in range(files)]
    if not units:
        raise ReleaseEmbeddingsError(
            f"{release.record.name} has no embeddings of {folder}: write them with dataset embeddings first."
        )
    name = "similarity_" + "".join(letter if letter.isalnum() else "_" for letter in folder)
    return write_side_table(
        release,
        name,
        SIMILARITY,
        units,
        on=JoinOn.ID,
        source=f"embeddings/{folder}",
        threads=threads,
        on_progress=on_progress,
    )


def _read_similarity(release: Release, folder: str, record: EmbeddingsRecord, at: int) -> pa.Table:
    """Return the ids and cosines of a file of embeddings."""
    place = release.path(embeddings_path(folder, record.batch))
    images = open_rows(release.store, f"{place}/{image_path(at)}")
    texts = open_rows(release.store, f"{place}/{text_path(at)}")
    ids = release.store.read_table(f"{place}/{metadata_path(at)}", ["id"])["id"].to_numpy()
    cosines = np.empty(images.rows, np.float32)
    step = max(1, _MULTIPLIED_BYTES // images.row_bytes)
    for start in range(0, images.rows, step):
        end = min(images.rows, start + step)
        left, right = (vectors.read(start, end).astype(np.float32) for vectors in (images, texts))
        cosines[start:end] = np.einsum("nd,nd->n", left, right)
    return pa.table({"id": ids, "similarity": cosines})
