"""The score step: the tags of a range of embeddings, in sections by data file."""

import numpy as np
import pyarrow.parquet as pq

from dataset.dedup.arrays import Array, in_sections, write_arrays
from dataset.formats.npy import open_rows
from dataset.formats.release_embeddings import image_path, metadata_path
from dataset.formats.steps import UnitResult
from dataset.tagging.errors import TaggingError
from dataset.tagging.work import Integers, Work, vectors_path

_SCORED_ROWS = 16_384
"""Rows that are scored together: 50 MB of float32 at 768 dimensions. A fixed number, so that bytes are equal."""


def score_slice(work: Work, unit: int) -> UnitResult:
    """Write the tags of a unit's embeddings by id.

    Raises: TaggingError when a head does not fit them, or files differ in rows; StoreError.
    """
    file, start, end = work.plan.slices[unit]
    heads = work.embedding_heads(file.batch)
    vectors = open_rows(work.store, vectors_path(work.release, work.options.model, file.batch, image_path(file.at)))
    ids = _read_ids(work, file.batch, file.at, start, end)
    if vectors.rows < end or len(ids) != end - start:
        raise TaggingError(f"{vectors.path} and its metadata have changed: begin again with --restart.")
    scores: dict[str, Array] = {tag: np.empty(end - start, np.float32) for tag in heads}
    for first in range(start, end, _SCORED_ROWS):
        last = min(end, first + _SCORED_ROWS)
        rows = vectors.read(first, last).astype(np.float32)
        for tag, head in heads.items():
            scores[tag][first - start : last - start] = head.score(rows)
    put_scores(work, "score", unit, ids, scores)
    return UnitResult(end - start, end - start)


def put_scores(work: Work, step: str, unit: int, ids: Integers, scores: dict[str, Array]) -> None:
    """Write ids and their tags in sections by data file."""
    order, offsets = in_sections(work.plan.data_file_of(ids), len(work.plan.data))
    arrays: dict[str, Array] = {"id": ids[order], "offsets": offsets}
    write_arrays(work.store, work.path(step, unit), arrays | {tag: values[order] for tag, values in scores.items()})


def _read_ids(work: Work, batch: str, at: int, start: int, end: int) -> Integers:
    """Return the ids of rows of a file of embeddings, reading only the row groups that have them."""
    path = vectors_path(work.release, work.options.model, batch, metadata_path(at))
    with work.store.open_input(path) as opened:
        parquet = pq.ParquetFile(opened)
        pieces, first = [np.empty(0, np.int64)], 0
        for group in range(parquet.num_row_groups):
            last = first + parquet.metadata.row_group(group).num_rows
            if first < end and last > start:
                ids = parquet.read_row_group(group, columns=["id"], use_threads=False)["id"].to_numpy()
                pieces.append(ids[max(0, start - first) : end - first])
            first = last
    return np.concatenate(pieces)
