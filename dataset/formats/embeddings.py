"""Embeddings in files: the layout of clip-retrieval, which its index, its filters and its readers take as it is.

    <stem>.embeddings/img_emb/img_emb_0.npy        (N, D) float16 unit rows of the pictures
    <stem>.embeddings/text_emb/text_emb_0.npy      (N, D) float16 unit rows of the texts
    <stem>.embeddings/metadata/metadata_0.parquet  N rows: image_path, caption, url, … in the same order

Invariant: row i of one is row i of the others, and all three are there or none of them is listed: whoever writes a
folder writes what makes it known afterwards. float16 halves the room; a cosine of two such rows is off by 2e-4 at most
(11 bits, rows of length 1), which moves no neighbour that an index of compressed vectors could tell apart.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.errors import DatasetError
from dataset.store.store import Store

Halves = npt.NDArray[np.float16]

IMAGES = "img_emb/img_emb_0.npy"
TEXTS = "text_emb/text_emb_0.npy"
METADATA = "metadata/metadata_0.parquet"

LAION_TO_CLIP_RETRIEVAL = {"URL": "url", "TEXT": "caption", "key": "image_path"}
"""What a part calls by LAION's names, clip-retrieval calls by these; other columns keep theirs."""


class EmbeddingsError(DatasetError):
    """Embeddings do not belong together, or are damaged."""


@dataclass(frozen=True, slots=True)
class PairEmbeddings:
    """The embeddings of one pair, (D,) float16 each."""

    image: Halves
    text: Halves


def embeddings_folder(output: str) -> str:
    """Name the folder beside a part, or under the stem of an embed job, that holds its embeddings."""
    return f"{output}.embeddings"


def write_embeddings(
    store: Store,
    output: str,
    rows: Sequence[PairEmbeddings],
    about: pa.Table,
    metadata: Mapping[str, str],
    *,
    dimensions: int = 0,
) -> None:
    """Write the three files, the metadata last; `about` has a row for each of `rows`, with a part's columns.

    `dimensions` is D, and asked for only where there may be no row.

    Raises: EmbeddingsError when the rows are not as many; StoreError.
    """
    if len(rows) != about.num_rows:
        raise EmbeddingsError(
            f"{len(rows)} embeddings for {about.num_rows} samples of {output}: keep them of all or of none."
        )
    folder = embeddings_folder(output)
    store.put(f"{folder}/{IMAGES}", _npy([row.image for row in rows], dimensions))
    store.put(f"{folder}/{TEXTS}", _npy([row.text for row in rows], dimensions))
    names = [LAION_TO_CLIP_RETRIEVAL.get(name, name) for name in about.column_names]
    store.write_table(f"{folder}/{METADATA}", about.rename_columns(names), metadata)


def embeddings_bytes(store: Store, output: str) -> int:
    """Return the bytes of the three files; 0 where there are none: a part without a row has none either."""
    folder = embeddings_folder(output)
    if not store.exists(f"{folder}/{METADATA}"):
        return 0
    return sum(store.size(f"{folder}/{name}") for name in (IMAGES, TEXTS, METADATA))


def delete_embeddings(store: Store, output: str) -> None:
    """Delete what is there of the three files."""
    for name in (IMAGES, TEXTS, METADATA):
        store.delete(f"{embeddings_folder(output)}/{name}")


def read_embeddings(store: Store, output: str) -> tuple[Halves, Halves, pa.Table]:
    """Read pictures' rows, texts' rows, both (N, D) float16, and the N rows of metadata.

    Raises: StoreError when one is missing; EmbeddingsError when they are not equally many.
    """
    folder = embeddings_folder(output)
    images, texts = (
        np.load(io.BytesIO(store.read(f"{folder}/{name}")), allow_pickle=False) for name in (IMAGES, TEXTS)
    )
    about = store.read_table(f"{folder}/{METADATA}")
    if not len(images) == len(texts) == about.num_rows:
        raise EmbeddingsError(
            f"{folder} holds {len(images)} pictures, {len(texts)} texts and {about.num_rows} rows of metadata: embed "
            "its shard again."
        )
    return images, texts, about


def _npy(rows: Sequence[Halves], dimensions: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.stack(rows) if rows else np.empty((0, dimensions), np.float16))
    return file.getvalue()


def pair_rows(images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32]) -> Iterator[PairEmbeddings]:
    """Yield the embeddings of each pair of a batch, as float16; both arguments are (N, D) float32 unit rows."""
    for image, text in zip(images.astype(np.float16), texts.astype(np.float16), strict=True):
        yield PairEmbeddings(image, text)
