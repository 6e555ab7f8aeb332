"""Kinds of index, the number of lists by size, and the trained faiss index that all segments share.

| kind | bytes a row (D = 768) | for | |
|---|---|---|---|
| flat | 1,544 | below 20,000 rows | one list, exact; the codes are the float16 rows |
| sq16 | 1,544 | up to 2 million | lists of float16 rows |
| rabitq | 112 + 1,536 | above | a bit a dimension of the rotated residual; results are ranked again from float16 rows |
| pq128 | 136 + 1,536 | when asked for | LAION's class: 128 bytes a row; ten times slower to encode than rabitq |

Rejected: faiss's fast-scan kinds, which cannot be mapped; SQ8, which takes half of sq16 and needs the rows as well.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dataset.formats.index_files import SearchIndexError
from dataset.index.exact import half_index
from dataset.index.projected import Centroids

Rows = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

EXACT_ROWS = 20_000
PLAIN_ROWS = 2_000_000
ROWS_PER_LIST = 4_096
"""LanceDB's rule for large IVF indexes."""
MAX_LISTS = 2**20
HNSW_LISTS = 16_384
"""From here on the lists near a query are found through a graph over the centroids."""
_HNSW_LINKS = 32
_HNSW_CONSTRUCTION = 200
_PQ_BYTES = 128
_OPQ_ROWS, _OPQ_ROUNDS = 20_000, 6
"""More rows and rounds than these took minutes and gave nothing."""
OWN_ROWS = frozenset({"flat", "sq16"})
"""Kinds whose codes are the rows."""


def choose_kind(rows: int) -> str:
    """Return the kind for a number of rows."""
    if rows < EXACT_ROWS:
        return "flat"
    return "sq16" if rows <= PLAIN_ROWS else "rabitq"


def choose_lists(kind: str, rows: int) -> int:
    """Return the number of lists: a power of two, 4√rows up to PLAIN_ROWS, rows / ROWS_PER_LIST above."""
    if kind == "flat" or rows < 4:
        return 1
    wanted = 4 * rows**0.5 if rows <= PLAIN_ROWS else rows / ROWS_PER_LIST
    lists = 1 << round(float(np.log2(wanted)))
    return int(min(MAX_LISTS, lists, 1 << int(np.log2(rows))))


@dataclass(frozen=True)
class Trained:
    """faiss's empty index: `ivf` with centroids, and a rotation in front of it or None."""

    index: Any
    ivf: Any
    rotation: Any
    kind: str

    @property
    def code_bytes(self) -> int:
        """Bytes of a row's code."""
        return int(self.ivf.code_size)

    @property
    def lists(self) -> int:
        """The number of lists."""
        return int(self.ivf.nlist)

    def rotate(self, rows: Rows) -> Rows:
        """Return (N, D) float32 rows as the lists and codes see them."""
        rows = np.ascontiguousarray(rows, np.float32)
        return rows if self.rotation is None else self.rotation.apply_py(rows)

    def assign(self, rotated: Rows) -> npt.NDArray[np.int64]:
        """Return the list of each row -> (N,) int64."""
        if self.lists == 1:
            return np.zeros(len(rotated), np.int64)
        if self.lists >= HNSW_LISTS:
            found: npt.NDArray[np.int64] = self.ivf.quantizer.search(rotated, 1)[1][:, 0]
            return found
        return self.centroids.assign(rotated)

    @cached_property
    def centroids(self) -> Centroids:
        """The centroids of all lists."""
        return Centroids(self.ivf.quantizer.reconstruct_n(0, self.lists))

    @cached_property
    def coarse(self) -> Any:
        """The index over centroids by which a search chooses lists: float16 up to HNSW_LISTS, half of the bytes."""
        if self.lists >= HNSW_LISTS:
            return faiss.downcast_index(self.ivf.quantizer)
        return half_index(self.ivf.quantizer.reconstruct_n(0, self.lists).astype(np.float16))

    def encode(self, rotated: Rows, lists: npt.NDArray[np.int64]) -> Codes:
        """Return the codes of rows in their lists -> (N, code_bytes) uint8; for kinds with codes of their own."""
        codes = np.empty((len(rotated), self.code_bytes), np.uint8)
        lists = np.ascontiguousarray(lists)
        self.ivf.encode_vectors(
            len(rotated), faiss.swig_ptr(rotated), faiss.swig_ptr(lists), faiss.swig_ptr(codes), False
        )
        return codes


def make_trained(kind: str, centroids: Rows, sample: Rows, seed: int) -> Trained:
    """Return the empty index of these centroids, with codes trained on a sample of (N, D) float32 unit rows."""
    lists, dimensions = centroids.shape
    rotation = _rotation(kind, dimensions, sample, seed)
    if rotation is not None:
        centroids = rotation.apply_py(np.ascontiguousarray(centroids))
    quantizer = _quantizer(centroids)
    metric = faiss.METRIC_INNER_PRODUCT
    match kind:
        case "flat" | "sq16":
            ivf = faiss.IndexIVFScalarQuantizer(
                quantizer, dimensions, lists, faiss.ScalarQuantizer.QT_fp16, metric, False
            )
        case "rabitq":
            ivf = faiss.IndexIVFRaBitQ(quantizer, dimensions, lists, metric)
        case "pq128":
            ivf = faiss.IndexIVFPQ(quantizer, dimensions, lists, _pq_bytes(dimensions), 8, metric)
            ivf.pq.cp.min_points_per_centroid = 1
        case _:
            raise SearchIndexError(f"{kind} is not a kind of index: use flat, sq16, rabitq or pq128.")
    if kind in OWN_ROWS:
        ivf.is_trained = True
    else:
        ivf.train(sample if rotation is None else rotation.apply_py(np.ascontiguousarray(sample)))
    index = ivf if rotation is None else faiss.IndexPreTransform(rotation, ivf)
    return Trained(index, ivf, rotation, kind)


def _rotation(kind: str, dimensions: int, sample: Rows, seed: int) -> Any:
    """Return the rotation in front of the codes: random for rabitq, learnt for pq128; None for others."""
    if kind == "rabitq":
        rotation = faiss.RandomRotationMatrix(dimensions, dimensions)
        rotation.init(seed + 1)
        return rotation
    if kind == "pq128":
        rotation = faiss.OPQMatrix(dimensions, _pq_bytes(dimensions), dimensions)
        rotation.niter, rotation.max_train_points = _OPQ_ROUNDS, _OPQ_ROWS
        rotation.train(np.ascontiguousarray(sample[:_OPQ_ROWS]))
        return rotation
    return None


def _pq_bytes(dimensions: int) -> int:
    """Return the bytes of a product-quantized code: the largest divisor of the dimensions up to 128."""
    return max(size for size in range(1, min(_PQ_BYTES, dimensions) + 1) if dimensions % size == 0)


def _quantizer(centroids: Rows) -> Any:
    lists, dimensions = centroids.shape
    if lists < HNSW_LISTS:
        quantizer = faiss.IndexFlatIP(dimensions)
    else:
        quantizer = faiss.IndexHNSWFlat(dimensions, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        quantizer.hnsw.efConstruction = _HNSW_CONSTRUCTION
        quantizer.hnsw.efSearch = 80  # faiss's recipe for assigning a billion rows
    quantizer.add(np.ascontiguousarray(centroids))
    return quantizer


def write_trained(trained: Trained) -> bytes:
    """Return the file of a trained index."""
    data: bytes = faiss.serialize_index(trained.index).tobytes()
    return data


def read_trained(path: Path, kind: str) -> Trained:
    """Read a trained index from a local file.

    Raises: SearchIndexError when it is damaged.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise SearchIndexError(f"{path} cannot be read: copy it again, or build the index again.") from error
    if isinstance(index, faiss.IndexPreTransform):
        return Trained(
            index, faiss.downcast_index(index.index), faiss.downcast_VectorTransform(index.chain.at(0)), kind
        )
    return Trained(index, index, None, kind)
