"""Embeddings for tests and benchmarks: vectors that are derived from the pair, in the folders that the filter
writes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dataset.formats.embeddings import PairEmbeddings, write_embeddings
from dataset.formats.parts import PRIVATE_COLUMNS
from dataset.store.store import Store

MODEL = {"shoal.model": "ViT-L-14", "shoal.sha256": "a" * 64, "shoal.config_sha256": "b" * 64}


def vector(*seed: object, dimensions: int = 16) -> npt.NDArray[np.float16]:
    """Return a float16 unit row that depends on nothing but the seed."""
    draw = np.random.default_rng([abs(hash_of(one)) for one in seed])
    row = draw.normal(size=dimensions)
    found: npt.NDArray[np.float16] = (row / np.linalg.norm(row)).astype(np.float16)
    return found


def hash_of(value: object) -> int:
    """Return a number for a seed."""
    return value if isinstance(value, int) else int.from_bytes(str(value).encode()[:16], "little")


def put_embeddings(
    store: Store, parts: Sequence[str], *, model: Mapping[str, str] = MODEL, dimensions: int = 16
) -> None:
    """Write the embeddings of parts, given by their files' paths, as the filter does."""
    for path in parts:
        part = store.read_table(path).drop_columns([*PRIVATE_COLUMNS])
        keys = part["key"].to_pylist()
        rows = [
            PairEmbeddings(
                vector("image", int(key), dimensions=dimensions), vector("text", int(key), dimensions=dimensions)
            )
            for key in keys
        ]
        write_embeddings(store, path.removesuffix(".parquet"), rows, part.replace_schema_metadata(None), model)
