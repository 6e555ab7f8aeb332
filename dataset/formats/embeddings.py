"""Embeddings in clip-retrieval's layout, which its index, filters and readers accept unchanged.

    <stem>.embeddings/img_emb/img_emb_0.npy        (N, D) float16 unit rows of the pictures
    <stem>.embeddings/text_emb/text_emb_0.npy      (N, D) float16 unit rows of the texts
    <stem>.embeddings/metadata/metadata_0.parquet  N rows: image_path, caption, url, … in the same order

Invariant: row i of each file belongs to the same sample, and a folder is listed only after all three files are written.
float16 halves the size; a cosine of two such rows is off by at most 2e-4 (11 bits, rows of length 1), less than an
index of compressed vectors can distinguish.
"""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.errors import DatasetError
from dataset.store.store import Store

Halves = npt.NDArray[np.float16]

IMAGES = "img_emb/img_emb_0.npy"
TEXTS = "text_emb/text_emb_0.npy"
METADATA = "metadata/metadata_0.parquet"

REMOVED_KEY = "shoal.removed"
"""Key in the metadata of parts and embeddings: the number of rows that takedowns have removed."""

LAION_TO_CLIP_RETRIEVAL = {"URL": "url", "TEXT": "caption", "key": "image_path"}
"""clip-retrieval's names for a part's columns, by LAION's names; other columns keep theirs."""


class EmbeddingsError(DatasetError):
    """Embeddings do not fit each other, or are damaged."""


@dataclass(frozen=True, slots=True)
class PairEmbeddings:
    """The embeddings of one pair, (D,) float16 each."""

    image: Halves
    text: Halves


def embeddings_folder(output: str) -> str:
    """Return the folder of the embeddings of a part, or of an embed job's stem."""
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
    """Write the three files, the metadata last; `about` has a part's columns, and one row for each of `rows`.

    `dimensions` is D, needed only if `rows` may be empty.

    Raises: EmbeddingsError when `rows` and `about` differ in length; StoreError.
    """
    if len(rows) != about.num_rows:
        raise EmbeddingsError(
            f"{len(rows)} embeddings for {about.num_rows} samples of {output}: "
            "keep the embeddings of all samples or of none."
        )
    folder = embeddings_folder(output)
    store.put(f"{folder}/{IMAGES}", _npy([row.image for row in rows], dimensions))
    store.put(f"{folder}/{TEXTS}", _npy([row.text for row in rows], dimensions))
    names = [LAION_TO_CLIP_RETRIEVAL.get(name, name) for name in about.column_names]
    store.write_table(f"{folder}/{METADATA}", about.rename_columns(names), metadata)


def embeddings_bytes(store: Store, output: str) -> int:
    """Return the size of the three files in bytes; 0 if there are none, as for a part without rows."""
    folder = embeddings_folder(output)
    if not store.exists(f"{folder}/{METADATA}"):
        return 0
    return sum(store.size(f"{folder}/{name}") for name in (IMAGES, TEXTS, METADATA))


def delete_embeddings(store: Store, output: str) -> None:
    """Delete those of the three files that exist."""
    for name in (IMAGES, TEXTS, METADATA):
        store.delete(f"{embeddings_folder(output)}/{name}")


def remove_embeddings(store: Store, output: str, keys: Collection[str]) -> int:
    """Remove the rows of samples from the three files, the metadata last; return how many there were.

    The metadata say how many rows were removed in total (`shoal.removed`), because the manifest still counts them.

    Raises: StoreError when a file cannot be written; EmbeddingsError when the files do not belong together. The next
    call continues from there.
    """
    folder = embeddings_folder(output)
    if not store.exists(f"{folder}/{METADATA}"):
        return 0
    about = store.read_table(f"{folder}/{METADATA}")
    gone = pc.is_in(about["image_path"], pa.array(sorted(keys), pa.string())).to_numpy()
    removed = int(np.count_nonzero(gone))
    if not removed:
        return 0
    for name in (IMAGES, TEXTS):
        rows = np.load(io.BytesIO(store.read(f"{folder}/{name}")), allow_pickle=False)
        if len(rows) == len(gone):
            file = io.BytesIO()
            np.save(file, np.ascontiguousarray(rows[~gone]))
            store.put(f"{folder}/{name}", file.getvalue())
        elif len(rows) != len(gone) - removed:  # an earlier call was interrupted before it wrote the metadata
            raise EmbeddingsError(f"{folder}/{name} has {len(rows)} rows, not {len(gone)}: embed its shard again.")
    store.write_table(f"{folder}/{METADATA}", about.filter(pa.array(~gone)), count_removed(about.schema, removed))
    return removed


def count_removed(schema: pa.Schema, rows: int) -> dict[str, str]:
    """Return the metadata of a table from which further rows were removed."""
    return {REMOVED_KEY: str(removed_rows(schema) + rows)}


def removed_rows(schema: pa.Schema) -> int:
    """Return how many rows were removed from a part, or a folder of embeddings, after the manifest counted them."""
    return int((schema.metadata or {}).get(REMOVED_KEY.encode(), b"0"))


def read_embeddings(store: Store, output: str) -> tuple[Halves, Halves, pa.Table]:
    """Return the pictures' rows and the texts' rows, both (N, D) float16, and the N rows of metadata.

    Raises: StoreError when a file is missing; EmbeddingsError when the files differ in length.
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
