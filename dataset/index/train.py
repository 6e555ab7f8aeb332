"""Train: draw rows, hold some out as queries, cluster the others, and write the empty index that all rows are added to.

Lists are found in the first 128 principal directions, in two levels, √lists groups and then lists within each, and are
refined by two rounds in all dimensions: a twentieth of the work of ten rounds over all lists and dimensions. The lists
of a group have neighbouring numbers, so they lie in one range of files.
"""

import io
from dataclasses import dataclass
from itertools import pairwise

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import SearchIndexError
from dataset.formats.npy import NpyRows
from dataset.index.gpu import cluster_on_device, has_gpu
from dataset.index.kinds import OWN_ROWS, Trained, make_trained
from dataset.index.projected import DIMENSIONS, Centroids, principal_directions
from dataset.index.sources import Source, VectorSlice, open_vectors, read_ids
from dataset.index.training_rows import draw_rows, shares

Rows = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

CODE_ROWS = 65_536
"""Rows that codes are trained on, as faiss takes for product quantizers of 256 centroids."""
_FIRST_ROUNDS = 10
_REFINING_ROUNDS = 2
_READ_ROWS = 8_192
_DIRECTION_ROWS = 20_000
_ONE_THREAD = 1 << 20
"""Fewer products than these are faster in one thread, which need not wait for others."""
_DIRECT_LISTS = 64
"""Up to here one level is faster."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Queries that recall is measured with; `texts` has no rows if the source has no vectors of texts."""

    ids: npt.NDArray[np.int64]
    images: Halves
    texts: Halves

    def to_bytes(self) -> bytes:
        """Return the file of the queries; equal queries give equal bytes."""
        file = io.BytesIO()
        for array in (self.ids, self.images, self.texts):
            np.save(file, array)
        return file.getvalue()

    @classmethod
    def empty(cls, dimensions: int) -> "HeldOut":
        """Return no queries, for rows that are added to an index whose recall is known."""
        rows = np.empty((0, dimensions), np.float16)
        return cls(np.empty(0, np.int64), rows, rows)

    @classmethod
    def from_bytes(cls, data: bytes) -> "HeldOut":
        """Read the file."""
        file = io.BytesIO(data)
        return cls(*(np.load(file) for _ in range(3)))


def draw_sample(source: Source, modality: str, wanted: int, held_out: int, seed: int) -> tuple[Halves, HeldOut]:
    """Return about `wanted` rows to train on -> (N, D) float16, and held-out queries, which are not among them.

    Raises: SearchIndexError when a drawn row is not finite or zero; StoreError.
    """
    counts = [file.rows for file in source.files]
    queries = shares(counts, held_out)
    training = shares([count - taken for count, taken in zip(counts, queries, strict=True)], wanted)
    sample: list[Halves] = []
    held: list[tuple[npt.NDArray[np.int64], Halves, Halves]] = []
    for at, (file, few, many) in enumerate(zip(source.files, queries, training, strict=True)):
        drawn = draw_rows(file.rows, few + many, (seed, at))
        vectors = open_vectors(source, file, modality)
        chosen = np.sort(drawn[few:])
        rows = unit_rows(_read(vectors, chosen), vectors.path, chosen, removed=file.first_id is None)
        sample.append(rows[rows.any(axis=1)])
        if few:
            chosen = np.sort(drawn[:few])
            ids, _ = read_ids(source, VectorSlice(file, 0, file.rows))
            images = unit_rows(_read(open_vectors(source, file, "image"), chosen), file.images, chosen, removed=True)
            texts = np.empty((0, source.dimensions), np.float16)
            if file.texts is not None:
                texts = unit_rows(_read(open_vectors(source, file, "text"), chosen), file.texts, chosen, removed=True)
            held.append((ids[chosen], images, texts))
    empty = np.empty((0, source.dimensions), np.float16)
    ids, images, texts = (
        (np.concatenate([one[part] for one in held]) for part in range(3))
        if held
        else (np.empty(0, np.int64), empty, empty)
    )
    return np.concatenate(sample), HeldOut(ids, images, texts)


def _read(vectors: NpyRows, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """Read some rows, given in order, in blocks."""
    found = []
    start = 0
    while start < len(rows):
        end = int(np.searchsorted(rows, rows[start] + _READ_ROWS))
        block = vectors.read(int(rows[start]), int(rows[end - 1]) + 1)
        found.append(block[rows[start:end] - rows[start]])
        start = end
    return np.concatenate(found) if found else np.empty((0, vectors.dimensions), np.float16)


def unit_rows(
    rows: npt.NDArray[np.floating], path: str, numbers: npt.NDArray[np.int64], *, removed: bool = False
) -> Halves:
    """Return rows as (N, D) float16 of length 1; float16 rows that have it already stay as they are.

    With `removed`, a row of zeros is one that a takedown has blanked, and stays as it is.

    Raises: SearchIndexError for a row that is zero or not finite, named by its number in the file.
    """
    wide = rows.astype(np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    lengths[(lengths == 0) & removed] = 1
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        raise SearchIndexError(
            f"Row {int(numbers[np.argmax(bad)])} of {path} is zero or not finite, and has no direction: leave it out, "
            "or make it again."
        )
    if rows.dtype == np.float16 and np.all(np.abs(lengths - 1) < 2e-3):  # what rounding does to a unit row
        return rows.view(np.float16)
    return np.asarray(wide / lengths[:, None], np.float16)


def train(sample: Halves, kind: str, lists: int, seed: int) -> Trained:
    """Return the trained empty index of a kind.

    Raises: SearchIndexError when there are fewer rows than lists.
    """
    if len(sample) < lists:
        raise SearchIndexError(f"{len(sample)} rows cannot be divided into {lists} lists: ask for fewer with --lists.")
    rows = sample.astype(np.float32)
    centroids = train_centroids(rows, lists, seed)
    codes = rows[:0] if kind in OWN_ROWS else rows[np.random.default_rng(seed).permutation(len(rows))[:CODE_ROWS]]
    return make_trained(kind, centroids, codes, seed)


def train_centroids(rows: Rows, lists: int, seed: int) -> Rows:
    """Cluster (N, D) float32 unit rows by direction -> (lists, D) float32 unit rows, neighbours near each other."""
    if lists == 1:
        return _unit(rows.mean(axis=0, keepdims=True))
    if lists > _DIRECT_LISTS and has_gpu():
        nearest = cluster_on_device(rows, lists, seed)
        return _means(rows, nearest, np.zeros((lists, rows.shape[1]), np.float32))
    few = rows
    if lists > _DIRECT_LISTS and rows.shape[1] > 2 * DIMENSIONS:
        drawn = np.random.default_rng(seed).permutation(len(rows))[:_DIRECTION_ROWS]
        few = rows @ principal_directions(rows[np.sort(drawn)], DIMENSIONS)
    nearest = _cluster_in_levels(few, lists, seed)
    centroids = _means(rows, nearest, np.zeros((lists, rows.shape[1]), np.float32))
    for _ in range(_REFINING_ROUNDS):
        known = Centroids(centroids)
        pieces = [known.assign(rows[start : start + _READ_ROWS]) for start in range(0, len(rows), _READ_ROWS)]
        centroids = _means(rows, np.concatenate(pieces), centroids)
    return centroids


def _cluster_in_levels(rows: Rows, lists: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the list of each row, after two levels of k-means -> (N,) int64."""
    if lists <= _DIRECT_LISTS:
        return _cluster(rows, lists, seed)
    groups = 1 << round(float(np.log2(lists)) / 2)
    nearest = _cluster(rows, groups, seed)
    sizes = np.bincount(nearest, minlength=groups)
    members = np.argsort(nearest, kind="stable")
    found = np.empty(len(rows), np.int64)
    first = 0
    ends = np.cumsum(sizes).tolist()
    for at, (size, end, wanted) in enumerate(zip(sizes.tolist(), ends, _divide(sizes, lists), strict=True)):
        if wanted:
            some = members[end - size : end]
            found[some] = first + _cluster(rows[some], wanted, seed + 1 + at)
            first += wanted
    return found


def _means(rows: Rows, nearest: npt.NDArray[np.int64], centroids: Rows) -> Rows:
    """Return the mean directions of the rows of each list; a list without rows keeps its centroid."""
    order = np.argsort(nearest, kind="stable")
    filled, starts = np.unique(nearest[order], return_index=True)
    moved = centroids.copy()
    for at, (start, end) in zip(filled.tolist(), pairwise([*starts.tolist(), len(order)]), strict=True):
        moved[at] = rows[order[start:end]].mean(axis=0)
    return _unit(moved)


def _divide(sizes: npt.NDArray[np.int64], lists: int) -> list[int]:
    """Divide lists among groups in proportion to their rows, at least one for a group with rows, none with more."""
    wanted = np.minimum(sizes, np.maximum(sizes > 0, np.round(sizes * lists / sizes.sum()).astype(np.int64)))
    while (missing := lists - int(wanted.sum())) != 0:
        load = np.where(wanted > 0, sizes / np.maximum(wanted, 1), 0.0)
        if missing > 0:
            load[wanted >= sizes] = -1
            wanted[np.argsort(-load, kind="stable")[: min(missing, int((load >= 0).sum()))]] += 1
        else:
            load[wanted <= 1] = np.inf
            wanted[np.argsort(load, kind="stable")[: min(-missing, int(np.isfinite(load).sum()))]] -= 1
    return [int(one) for one in wanted]


def _cluster(rows: Rows, lists: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the cluster of each row -> (N,) int64."""
    if lists == 1:
        return np.zeros(len(rows), np.int64)
    means = faiss.Kmeans(
        rows.shape[1], lists, niter=_FIRST_ROUNDS, seed=seed, min_points_per_centroid=1, max_points_per_centroid=256
    )
    rows = np.ascontiguousarray(rows)
    threads = faiss.omp_get_max_threads()
    if len(rows) * lists < _ONE_THREAD:
        faiss.omp_set_num_threads(1)
    try:
        means.train(rows)
        found: npt.NDArray[np.int64] = means.index.search(rows, 1)[1][:, 0]
    finally:
        faiss.omp_set_num_threads(threads)
    return found


def _unit(rows: Rows) -> Rows:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)
