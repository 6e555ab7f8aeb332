"""Decontamination: the rows of a release that are near-duplicates of rows elsewhere, as a mask.

Every row is compared with every row of the other sets by codes whose product is never below the cosine (projection.py),
and pairs that may reach the threshold exactly. So nothing is missed. It costs a product of 128 numbers a pair: 9 ns on
a core, 450 s for 1M rows against 50,000 (docs/performance.md). Memory holds OTHERS_AT_ONCE rows of the other sets.

Rejected: the cells of the search, which lose pairs at their borders; a benchmark must not be lost there.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.dedup.errors import DedupError
from dataset.dedup.projection import code_threshold, encode, places_from, train_projection
from dataset.dedup.rescore import STEP, cosine_steps, to_steps
from dataset.dedup.vectors import Vectors
from dataset.formats.halves import widen
from dataset.formats.json_records import to_json
from dataset.formats.masks import FORMAT, RECORD, ROWS, SCHEMA, ComparedSet, MaskRecord
from dataset.formats.npy import open_rows
from dataset.formats.releases import Release
from dataset.store.store import Store

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Blocks = Iterator[tuple[Integers, Floats]]
Progress = Callable[[str, int, int], None]

OTHERS_AT_ONCE = 250_000
"""Rows of other sets in memory: 0.9 GB of 768 dimensions. The release is read once for each so many."""
_COLUMNS_AT_ONCE, _PAIRS_AT_ONCE = 2_048, 16_384
_TRAINING_ROWS = 20_000


class OtherSet(Protocol):
    """Embeddings with which a release is compared."""

    name: str
    reason: str
    """In the mask."""
    rows: int
    dimensions: int
    model_sha256: str
    """'' when it is not known."""

    def blocks(self) -> Blocks:
        """Yield row numbers or ids, and unit rows (N, D) float32."""


class FolderSet:
    """The .npy files of a folder, in the order of their names; those of `img_emb/` if there are any."""

    reason, model_sha256 = "evaluation", ""

    def __init__(self, store: Store, name: str) -> None:
        """Open them.

        Raises: DedupError when there are none or they have different dimensions; StoreError.
        """
        self.name, self._store = name, store
        paths = [path for path in store.list() if path.endswith(".npy")]
        self._paths = sorted([path for path in paths if path.startswith("img_emb/")] or paths)
        if not self._paths:
            raise DedupError(f"{store.uri} has no .npy file: name a folder of embeddings, or a release.")
        opened = [open_rows(store, path) for path in self._paths]
        self.rows = sum(one.rows for one in opened)
        self.dimensions = opened[0].dimensions
        if any(one.dimensions != self.dimensions for one in opened):
            raise DedupError(f"The .npy files of {store.uri} have different dimensions: give each model its folder.")

    def blocks(self) -> Blocks:
        """Yield row numbers over all files, and unit rows; rows without a direction are left out."""
        first = 0
        for path in self._paths:
            opened = open_rows(self._store, path)
            for start in range(0, opened.rows, _COLUMNS_AT_ONCE):
                end = min(opened.rows, start + _COLUMNS_AT_ONCE)
                block = widen(opened.read(start, end))
                norms = np.linalg.norm(block, axis=1)
                good = np.isfinite(norms) & (norms > 0)
                yield np.arange(first + start, first + end)[good], block[good] / norms[good, None]
            first += opened.rows


class ReleaseSet:
    """The embeddings of another release by one model."""

    reason = "overlap"

    def __init__(self, release: Release, model: str) -> None:
        """List them.

        Raises: DedupError when there are none.
        """
        self._vectors = Vectors(release, model)
        self.name, self.rows, self.dimensions = release.record.name, self._vectors.rows, self._vectors.dimensions
        assert self._vectors.model is not None
        self.model_sha256 = self._vectors.model.sha256

    def blocks(self) -> Blocks:
        """Yield ids and unit rows."""
        return self._vectors.blocks()


@dataclass(frozen=True, slots=True)
class _Near:
    """Rows of the release that are near to a set, each with its nearest row there and the cosine in steps; (N,)."""

    ids: Integers
    others: Integers
    steps: npt.NDArray[np.int16]
    near_rows: int
    """Rows of the set that are near to any."""


def write_mask(
    release: Release,
    model: str,
    others: Sequence[OtherSet],
    at: float,
    out: Store,
    on_progress: Progress = lambda *_: None,
) -> MaskRecord:
    """Write the mask of the rows with a cosine of at least `at` to a row of the other sets, its record last.

    Raises: DedupError when a set is of another model, or the folder is not empty; StoreError.
    """
    vectors = Vectors(release, model)
    assert vectors.model is not None
    _check_sets(release, vectors, others)
    if out.list() not in ([], [ROWS]):
        raise DedupError(f"{out.uri} contains other files: name an empty folder.")
    found: dict[str, Integers] = {}
    sets, tables = list[ComparedSet](), list[pa.Table]()
    for other in others:
        near = _nearest(vectors, other, at, on_progress)
        found[other.name] = near.ids
        tables.append(_table(near, other))
        sets.append(
            ComparedSet(
                name=other.name,
                rows=other.rows,
                near_rows=near.near_rows,
                release_rows=len(near.ids),
                same_model=bool(other.model_sha256),
            )
        )
    table = pa.concat_tables(tables).sort_by([("id", "ascending"), ("other", "ascending")])
    out.write_table(ROWS, table)
    record = MaskRecord(
        format=FORMAT,
        release=release.record.name,
        version=release.record.version,
        next_id=release.record.next_id,
        model=vectors.model.name,
        model_sha256=vectors.model.sha256,
        at=at,
        rows=len(np.unique(table["id"].to_numpy())),
        sets=tuple(sets),
        overlap=_overlap(found),
        sha256=hashlib.sha256(out.read(ROWS)).hexdigest(),
    )
    out.put(RECORD, to_json(record))
    return record


def _table(near: _Near, other: OtherSet) -> pa.Table:
    count = len(near.ids)
    columns = {
        "id": near.ids,
        "reason": pa.repeat(other.reason, count),
        "other": pa.repeat(other.name, count),
        "other_row": near.others,
        "cosine": (near.steps * STEP).round(4).astype(np.float32),
    }
    return pa.table(columns, schema=SCHEMA)


def _check_sets(release: Release, vectors: Vectors, others: Sequence[OtherSet]) -> None:
    assert vectors.model is not None
    names = [one.name for one in others]
    if len(set(names)) < len(names) or release.record.name in names:
        raise DedupError("Each set needs a name of its own, other than the release's: rename the folder.")
    for one in others:
        if one.dimensions != vectors.dimensions:
            raise DedupError(
                f"{one.name} has {one.dimensions} dimensions and the release {vectors.dimensions}: embed it with "
                f"{vectors.model.name}."
            )
        if one.model_sha256 and vectors.model.sha256 and one.model_sha256 != vectors.model.sha256:
            raise DedupError(f"{one.name} was embedded by other weights: embed it with {vectors.model.name}.")


def _nearest(vectors: Vectors, other: OtherSet, at: float, on_progress: Progress) -> _Near:
    """Compare all rows of a release with all rows of a set."""
    ids, others, steps = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int16)]
    done, total, near_rows = 0, vectors.rows * -(-other.rows // OTHERS_AT_ONCE), 0
    for numbers, block in _chunks(other.blocks()):
        chunk = _Chunk(numbers, block, at)
        for own, part in vectors.blocks():
            best, at_other = chunk.nearest(part)
            near = np.flatnonzero(at_other >= 0)
            ids.append(own[near])
            others.append(numbers[at_other[near]])
            steps.append(best[near])
            done += len(own)
            on_progress(other.name, done, total)
        near_rows += int(chunk.is_near.sum())
    found = np.concatenate(ids), np.concatenate(others), np.concatenate(steps)
    order = np.lexsort((found[1], -found[2].astype(np.int32), found[0]))
    unique, first = np.unique(found[0][order], return_index=True)
    return _Near(unique, found[1][order[first]], found[2][order[first]], near_rows)


class _Chunk:
    """Rows of a set in memory, and which of them are near to any row that was compared."""

    def __init__(self, numbers: Integers, block: Floats, at: float) -> None:
        self._block, self._at = block, at
        self._projection = train_projection(block[:: max(1, len(block) // _TRAINING_ROWS)])
        self._codes = np.ascontiguousarray(widen(encode(block, self._projection)).T)  # (K, M)
        self.is_near = np.zeros(len(numbers), bool)

    def nearest(self, part: Floats) -> tuple[npt.NDArray[np.int16], Integers]:
        """Return the highest cosine of each row in steps, and the place of the chunk's row; -1 below the threshold."""
        best, place = np.zeros(len(part), np.int16), np.full(len(part), -1, np.int64)
        codes = widen(encode(part, self._projection))
        for start in range(0, len(self._block), _COLUMNS_AT_ONCE):
            products = codes @ self._codes[:, start : start + _COLUMNS_AT_ONCE]
            left, right = places_from(products, code_threshold(self._at - STEP / 2, 1.0))
            for first in range(0, len(left), _PAIRS_AT_ONCE):
                own, other = left[first : first + _PAIRS_AT_ONCE], start + right[first : first + _PAIRS_AT_ONCE]
                cosines = cosine_steps(part[own], self._block[other])
                near = cosines >= to_steps(self._at)
                self.is_near[other[near]] = True
                own, other, cosines = own[near], other[near], cosines[near]
                order = np.lexsort((-other, cosines))  # the last assignment of equal places stays
                own, other, cosines = own[order], other[order], cosines[order]
                better = cosines > best[own]
                best[own[better]], place[own[better]] = cosines[better], other[better]
        return best, place


def _chunks(blocks: Blocks) -> Blocks:
    """Gather blocks into chunks of at most OTHERS_AT_ONCE rows, or a block's."""
    numbers: list[Integers] = []
    rows: list[Floats] = []
    for some, block in blocks:
        if rows and sum(map(len, rows)) + len(block) > OTHERS_AT_ONCE:
            yield np.concatenate(numbers), np.concatenate(rows)
            numbers, rows = [], []
        numbers.append(some)
        rows.append(block)
    if rows and sum(map(len, rows)):
        yield np.concatenate(numbers), np.concatenate(rows)


def _overlap(found: dict[str, Integers]) -> dict[str, dict[str, int]]:
    matrix: dict[str, dict[str, int]] = {name: {} for name in found}
    for a, b in combinations_with_replacement(found, 2):
        matrix[a][b] = matrix[b][a] = len(np.intersect1d(found[a], found[b]))
    return matrix
