"""The embeddings of a release by id, read from their files: rows of some ids, and the rows nearest to a vector.

They are in the order of their sources, so rows are found by reading the ids of a batch, 8 bytes a row, and the nearest
rows by reading all of them: 1.5 kB a row of 768 dimensions. Where there is a kNN index, that is used for the latter.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.dedup.errors import DedupError
from dataset.formats.halves import widen
from dataset.formats.npy import open_rows
from dataset.formats.release_embeddings import (
    EmbeddingModel,
    embeddings_path,
    find_embeddings,
    image_path,
    metadata_path,
)
from dataset.formats.releases import Release

Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class _File:
    batch: str
    images: str
    metadata: str


class Vectors:
    """The pictures' embeddings of a release by one model."""

    def __init__(self, release: Release, model: str) -> None:
        """List their files.

        Raises: DedupError when there are none.
        """
        self._release = release
        self._files: list[_File] = []
        self.model: EmbeddingModel | None = None
        self.dimensions = 0
        self.rows = 0
        for batch in release.record.batches:
            record = find_embeddings(release, model, batch.name)
            if record is None or not record.rows:
                continue
            self.model, self.dimensions = record.model, record.dimensions
            self.rows += record.rows
            folder = release.path(embeddings_path(model, batch.name))
            count = sum(file.path.startswith("img_emb/") for file in record.files)
            self._files += [
                _File(batch.name, f"{folder}/{image_path(at)}", f"{folder}/{metadata_path(at)}") for at in range(count)
            ]
        if not self._files:
            raise DedupError(
                f"{release.record.name} has no embeddings of {model}: write them with dataset embeddings first."
            )

    def take(self, ids: Integers) -> Halves:
        """Return the rows of ids -> (N, D) float16.

        Raises: DedupError when an id has no embedding; StoreError.
        """
        found = np.zeros((len(ids), self.dimensions), np.float16)
        missing = np.ones(len(ids), bool)
        batches = self._batches_of(ids)
        for file in self._files:
            if file.batch not in batches or not missing.any():
                continue
            known = self._ids(file)
            order = np.argsort(known, kind="stable")
            at = np.minimum(np.searchsorted(known[order], ids), len(known) - 1)
            here = np.flatnonzero((known[order][at] == ids) & missing)
            opened = open_rows(self._release.store, file.images)
            for one in here.tolist():
                place = int(order[at[one]])
                found[one] = opened.read(place, place + 1)[0]
            missing[here] = False
        if missing.any():
            raise DedupError(
                f"{self._release.record.name} has no embedding of row {int(ids[missing][0])}: name a row that has one."
            )
        return found

    def nearest(self, query: npt.NDArray[np.floating], k: int) -> tuple[Integers, Floats]:
        """Return the ids and cosines of the k rows nearest to a vector (D,), best first; all rows are read."""
        unit = query.astype(np.float32) / np.linalg.norm(query.astype(np.float32))
        ids, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
        for some, block in self.blocks():
            ids, cosines = np.concatenate([ids, some]), np.concatenate([cosines, block @ unit])
            if len(ids) > k:
                order = np.lexsort((ids, -cosines))[:k]
                ids, cosines = ids[order], cosines[order]
        order = np.lexsort((ids, -cosines))
        return ids[order], cosines[order]

    def blocks(self) -> Iterator[tuple[Integers, Floats]]:
        """Yield ids and unit rows (N, D) float32, some thousand at a time; rows without a direction are left out."""
        for file in self._files:
            known = self._ids(file)
            opened = open_rows(self._release.store, file.images)
            for start in range(0, opened.rows, _ROWS_AT_ONCE):
                end = min(opened.rows, start + _ROWS_AT_ONCE)
                block = widen(opened.read(start, end))
                norms = np.linalg.norm(block, axis=1)
                good = np.isfinite(norms) & (norms > 0)
                yield known[start:end][good], block[good] / norms[good, None]

    def _ids(self, file: _File) -> Integers:
        ids: Integers = self._release.store.read_table(file.metadata, ["id"])["id"].to_numpy()
        return ids

    def _batches_of(self, ids: Integers) -> set[str]:
        return {
            batch.name
            for batch in self._release.record.batches
            for subset in batch.subsets.values()
            if ((ids >= subset.first_id) & (ids < subset.first_id + subset.rows)).any()
        }
