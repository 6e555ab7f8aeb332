"""The match phase: find the id of each row of a unit of sources.

The unit's hashes are sorted, then the hashes of the release are read once, by the row groups of `source/`. A row is
kept if `source/` has its key and tracker for the pair, which means that this sample was published. A foreign row has no
key, so it fits every pair with its hash.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.manifest import ManifestHead
from dataset.formats.parts import pair_hash
from dataset.formats.release_embeddings import EmbeddingModel, ReleaseEmbeddingsError, model_folder_name
from dataset.formats.releases import FileKind, Release, ReleaseFile, ids_path
from dataset.release_embeddings.plan import Work
from dataset.release_embeddings.sources import OpenSource, Source, open_source

Integers = npt.NDArray[np.int64]

NO_ID = -1
NO_KEY = -1
_CHECKED_BYTES = 32 << 20
"""Bytes of vectors that are checked at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReport:
    """The result of a unit. `rows` has an item for each source: 0 for a source that is left out."""

    rows: tuple[int, ...]
    models: tuple[EmbeddingModel, ...]
    others: tuple[EmbeddingModel, ...]
    """Models that were not requested."""
    dimensions: tuple[int, ...]
    left_out: Mapping[str, int]


def match_unit(work: Work, unit: int) -> UnitReport:
    """Write the ids of a unit's rows, source after source, to `match/UNIT.npy`.

    Raises: ReleaseEmbeddingsError, NpyError, StoreError when a source cannot be used.
    """
    sources = work.sources(unit)
    foreign = bool(work.plan.foreign)
    store = work.source_store(sources[0])
    rows: list[int] = []
    models, others, dimensions = set[EmbeddingModel](), set[EmbeddingModel](), set[int]()
    hashes: list[Integers] = []
    keys: list[Integers] = []
    invalid: list[npt.NDArray[np.bool_]] = []
    for source in sources:
        opened = open_source(store, source)
        wanted = opened is not None and (foreign or is_called(opened.model, work.plan.model))
        if opened is not None and not wanted:
            others.add(opened.model)
        if opened is None or not wanted:
            rows.append(0)
            continue
        models.add(EmbeddingModel(work.plan.model, "", "") if foreign and not opened.model.sha256 else opened.model)
        dimensions.add(opened.images.dimensions)
        rows.append(opened.rows)
        hashes.append(_foreign_hashes(opened, source) if foreign else _column(opened, source, "hash"))
        keys.append(np.full(opened.rows, NO_KEY) if foreign else _column(opened, source, "image_path"))
        invalid.append(_invalid_rows(opened) if foreign else np.zeros(opened.rows, bool))
    ids, other_sample = np.empty(0, np.int64), 0
    if hashes:
        tracker = None if foreign else str(ManifestHead.read(store).tracker)
        ids, other_sample = find_ids(work, np.concatenate(hashes), np.concatenate(keys), tracker)
        bad = np.concatenate(invalid)
        without_direction = int(np.count_nonzero(bad & (ids != NO_ID)))
        ids[bad] = NO_ID
    left_out = Counter[str](other_sample=other_sample)
    if hashes:
        left_out["without_direction"] = without_direction
        left_out["not_in_release"] = int(np.count_nonzero(ids == NO_ID)) - other_sample - without_direction
    with work.release.store.write(work.path(f"match/{unit:06d}.npy")) as file:
        np.save(file, ids)
    return UnitReport(
        rows=tuple(rows),
        models=tuple(sorted(models)),
        others=tuple(sorted(others)),
        dimensions=tuple(sorted(dimensions)),
        left_out=dict(left_out),
    )


def is_called(model: EmbeddingModel, asked: str) -> bool:
    """Return whether the model has this name, or a checksum that begins with it."""
    if model.name and asked in (model.name, model_folder_name(model.name)):
        return True
    return len(asked) >= 8 and model.checksum.startswith(asked)


def find_ids(work: Work, hashes: Integers, keys: Integers, tracker: str | None) -> tuple[Integers, int]:
    """Return the id of each row, or NO_ID, (N,) int64, and the number of rows whose pair was published with another
    sample.

    `tracker` is the tracker of the keys; None if the rows have no keys.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    inputs = [at for at, one in enumerate(work.release.record.inputs) if one.tracker == tracker]
    ids = np.full(len(hashes), NO_ID, np.int64)
    lost = 0
    for first_id, known, source in _walk(work.release, work.plan.batch):
        low, high = np.searchsorted(ordered, known[0], "left"), np.searchsorted(ordered, known[-1], "right")
        rows = order[low:high]
        at = np.searchsorted(known, ordered[low:high])
        fits = known[at] == ordered[low:high]
        rows, at = rows[fits], at[fits]
        if tracker is None and source.has_removed and len(rows):
            alive = _filled(source.read()["key"])[at] != NO_ID
            rows, at = rows[alive], at[alive]
        if tracker is not None and len(rows):
            won = source.read()
            here = np.isin(_filled(won["input"])[at], inputs) & (_filled(won["key"])[at] == keys[rows])
            lost += int(np.count_nonzero(~here))
            rows, at = rows[here], at[here]
        ids[rows] = first_id + at
    return ids, lost


@dataclass(frozen=True, slots=True)
class _SourceGroup:
    """A row group of a source file, which is read only if a hash fits."""

    file: pq.ParquetFile
    at: int
    has_removed: bool
    """Whether takedowns have removed rows of its file."""

    def read(self) -> pa.Table:
        return self.file.read_row_group(self.at, columns=["input", "key"], use_threads=False)


def _walk(release: Release, batch: str) -> Iterator[tuple[int, Integers, _SourceGroup]]:
    """Yield the hashes of a batch by row groups of `source/`, each with its first id."""
    alive = {file.first_id: file.rows for file in release.files(FileKind.DATA, batch=batch)}
    for file in release.files(FileKind.SOURCE, batch=batch):
        hashes, has_removed = _hashes_of(release, file), alive.get(file.first_id, 0) < file.rows
        with release.store.open_input(release.path(file.path)) as opened:
            parquet = pq.ParquetFile(opened)
            start = 0
            for at in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(at).num_rows
                yield (
                    file.first_id + start,
                    hashes[start:end],
                    _SourceGroup(parquet, at, has_removed),
                )
                start = end


def _hashes_of(release: Release, file: ReleaseFile) -> Integers:
    """Read the hashes of a source file's rows from `ids/`."""
    first = release.batch(file.batch).subsets[file.subset].first_id
    with release.store.open_input(release.path(ids_path(file.subset, file.batch))) as opened:
        opened.seek((file.first_id - first) * 8)
        return np.frombuffer(opened.read_buffer((file.last_id + 1 - file.first_id) * 8), "<i8")


def _filled(column: pa.ChunkedArray) -> Integers:
    """Return the values of `source/`, NO_ID for a row that was removed."""
    filled: Integers = column.cast(pa.int64()).fill_null(NO_ID).to_numpy()
    return filled


def _column(opened: OpenSource, source: Source, name: str) -> Integers:
    """Read hashes, or keys, as int64."""
    try:
        column: Integers = opened.metadata.read(columns=[name])[name].cast(pa.int64()).to_numpy()
    except (KeyError, pa.ArrowException, OSError) as error:
        raise ReleaseEmbeddingsError(
            f"{source.metadata} has no usable column {name} ({error}): embed its shard again."
        ) from error
    return column


def _foreign_hashes(opened: OpenSource, source: Source) -> Integers:
    """Compute the hashes of foreign rows from their URLs and captions."""
    try:
        table = opened.metadata.read(columns=["url", "caption"])
        pairs = zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True)
    except (KeyError, pa.ArrowException, OSError) as error:
        raise ReleaseEmbeddingsError(
            f"{source.metadata} has no columns url and caption ({error}): the rows of a release are found by both."
        ) from error
    return np.fromiter((pair_hash(url or "", text or "") for url, text in pairs), np.int64, opened.rows)


def _invalid_rows(opened: OpenSource) -> npt.NDArray[np.bool_]:
    """Return which foreign rows have a vector, of picture or text, that is zero or not finite, (N,) bool."""
    invalid = np.zeros(opened.rows, bool)
    step = max(1, _CHECKED_BYTES // max(1, opened.images.row_bytes))
    for start in range(0, opened.rows, step):
        end = min(opened.rows, start + step)
        for vectors in (opened.images, opened.texts):
            norms = np.linalg.norm(vectors.read(start, end).astype(np.float32), axis=1)
            invalid[start:end] |= ~(np.isfinite(norms) & (norms > 0))
    return invalid
