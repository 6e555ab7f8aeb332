"""Embeddings of a release: one folder for each model and batch, in clip-retrieval's layout.

    releases/NAME/embeddings/{model}/{batch}/
      index.json                        the record: the model's checksums, counts, files with sha256
      img_emb/img_emb_00000.npy         (N, D) float16 unit rows of the pictures
      text_emb/text_emb_00000.npy       (N, D) float16 unit rows of the captions
      metadata/metadata_00000.parquet   id, hash, url, caption of the same N rows
      missing.parquet                   ids of rows that have no embedding, in order
      SHA256SUMS                        of all of them, for `sha256sum --check`

Invariant: `index.json` is written last, and a folder holds one model, by checksum. Rows are in the order of their
sources, not of their ids, because an index rearranges them anyway.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.errors import DatasetError
from dataset.formats.json_records import from_json, to_json
from dataset.formats.release_parquet import HashedFile
from dataset.formats.releases import CHECKSUMS, Release, checksum_list
from dataset.recipe.recipe import HUB_PREFIX

FORMAT = 1
RECORD = "index.json"
MISSING = "missing.parquet"
METADATA_SCHEMA = pa.schema([("id", pa.int64()), ("hash", pa.int64()), ("url", pa.string()), ("caption", pa.string())])
MISSING_SCHEMA = pa.schema([("id", pa.int64())])


class ReleaseEmbeddingsError(DatasetError):
    """Embeddings do not fit a release, or each other."""


@dataclass(frozen=True, slots=True, order=True)
class EmbeddingModel:
    """The model of embeddings; a checksum is '' when the embeddings do not name it."""

    name: str
    sha256: str
    config_sha256: str

    @property
    def checksum(self) -> str:
        """The checksums of weights and configuration in one text; --model accepts its first digits."""
        return f"{self.sha256}/{self.config_sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsFile:
    """A file by its path in the folder."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRecord:
    """The content of index.json. Source rows = rows + left_out; rows of the release = rows + missing."""

    format: int
    release: str
    version: str
    batch: str
    model: EmbeddingModel
    dimensions: int
    rows: int
    source_rows: int
    left_out: Mapping[str, int]
    """Counts by reason."""
    missing: Mapping[str, int]
    """Rows without an embedding, by subset; `missing.parquet` names those of subsets that have any embedding."""
    files: tuple[EmbeddingsFile, ...]


def model_folder_name(model: str) -> str:
    """Return the folder of a model's embeddings: its name, with '-' in place of characters that a file's name cannot
    have.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model.removeprefix(HUB_PREFIX)).strip(".-_") or "model"


def embeddings_path(folder: str, batch: str) -> str:
    """Return the path in the release of a model's embeddings of a batch."""
    return f"embeddings/{folder}/{batch}"


def image_path(at: int) -> str:
    """Return the path in the folder of the pictures' rows."""
    return f"img_emb/img_emb_{at:05d}.npy"


def text_path(at: int) -> str:
    """Return the path in the folder of the captions' rows."""
    return f"text_emb/text_emb_{at:05d}.npy"


def metadata_path(at: int) -> str:
    """Return the path in the folder of the rows' ids, hashes, URLs and captions."""
    return f"metadata/metadata_{at:05d}.parquet"


def write_embeddings_record(release: Release, folder: str, record: EmbeddingsRecord) -> None:
    """Write SHA256SUMS of a model's embeddings of a batch, then their record.

    Raises: StoreError.
    """
    place = release.path(embeddings_path(folder, record.batch))
    data = to_json(record)
    sums = {file.path: file.sha256 for file in record.files} | {RECORD: hashlib.sha256(data).hexdigest()}
    release.store.put(f"{place}/{CHECKSUMS}", checksum_list(sums))
    release.store.put(f"{place}/{RECORD}", data)


def metadata_writer(file: HashedFile) -> pq.ParquetWriter:
    """Return the writer of a metadata file; equal row groups give equal bytes."""
    # zstd 1, because with higher levels the captions of a million rows would take as long as their vectors.
    return pq.ParquetWriter(file, METADATA_SCHEMA, compression="zstd", compression_level=1, use_dictionary=False)


def find_embeddings(release: Release, folder: str, batch: str) -> EmbeddingsRecord | None:
    """Return the record of a model's embeddings of a batch; None if there are none.

    Raises: ReleaseEmbeddingsError when it is damaged; StoreError.
    """
    path = release.path(f"{embeddings_path(folder, batch)}/{RECORD}")
    if not release.store.exists(path):
        return None
    try:
        return from_json(EmbeddingsRecord, release.store.read(path))
    except ValueError as error:
        raise ReleaseEmbeddingsError(f"{path} cannot be read ({error}): write it again with --restart.") from error
