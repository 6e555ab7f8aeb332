"""The sources of a release's embeddings: folders in clip-retrieval's layout, each with pictures, texts and metadata.

Parts and `worker embed` write one folder for each shard, listed by the manifest of each input's store; a foreign folder
is read as it is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.embeddings import IMAGES, METADATA, TEXTS, embeddings_folder
from dataset.formats.manifest import OutputKind, outputs
from dataset.formats.npy import NpyRows, open_rows
from dataset.formats.release_embeddings import EmbeddingModel, ReleaseEmbeddingsError
from dataset.formats.releases import Release, ReleaseBatch
from dataset.store.store import Store, StoreError


@dataclass(frozen=True, slots=True)
class Source:
    """Three files in a store; `rows` is an upper bound of their number of rows, which is known before they are read."""

    store: str
    images: str
    texts: str
    metadata: str
    rows: int


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A source whose files were opened and compared."""

    images: NpyRows
    texts: NpyRows
    metadata: pq.ParquetFile
    model: EmbeddingModel

    @property
    def rows(self) -> int:
        """The number of rows in each of the files."""
        return self.images.rows


def list_sources(release: Release, batch: ReleaseBatch) -> Iterator[Source]:
    """Yield the folders of the batch's inputs that may contain embeddings, in the order of the manifests.

    Raises: ManifestError when a manifest cannot be read.
    """
    inputs = [release.record.inputs[at] for at in batch.inputs]
    for uri in dict.fromkeys(one.store for one in inputs):
        store = release.input_store(uri)
        for run in dict.fromkeys(one.run for one in inputs if one.store == uri):
            for kind in (OutputKind.PART, OutputKind.EMBEDDINGS):
                for output in outputs(store, kind=kind, run=run):
                    if output.rows:
                        folder = embeddings_folder(output.path)
                        images, texts, metadata = (f"{folder}/{name}" for name in (IMAGES, TEXTS, METADATA))
                        yield Source(uri, images, texts, metadata, output.rows)


def list_foreign(uri: str) -> Iterator[Source]:
    """Yield the files of a folder in clip-retrieval's layout, by their numbers.

    Raises: ReleaseEmbeddingsError when the three kinds of files do not fit each other.
    """
    store = Store.open(uri, writable=False)
    found: dict[str, dict[int, str]] = {"img_emb": {}, "text_emb": {}, "metadata": {}}
    for path in store.list():
        match = re.fullmatch(r"(?:.*/)?(img_emb|text_emb|metadata)_(\d+)\.(npy|parquet)", path)
        if match and (match[1] == "metadata") == (match[3] == "parquet"):
            found[match[1]][int(match[2])] = path
    numbers = sorted(found["img_emb"])
    if not numbers or any(sorted(files) != numbers for files in found.values()):
        counts = ", ".join(f"{len(files)} of {name}" for name, files in found.items())
        raise ReleaseEmbeddingsError(
            f"{uri} holds {counts}: img_emb_N.npy, text_emb_N.npy and metadata_N.parquet are needed for each N, as "
            "clip-retrieval writes them."
        )
    for number in numbers:
        images, texts, metadata = (files[number] for files in found.values())
        yield Source(uri, images, texts, metadata, open_rows(store, images).rows)


def open_source(store: Store, source: Source) -> OpenSource | None:
    """Open the files of a source; None if it has none, like a part of a run that keeps no embeddings.

    Raises: ReleaseEmbeddingsError when they do not fit each other; NpyError, StoreError when one cannot be read.
    """
    if not store.exists(source.metadata):
        return None
    images, texts = open_rows(store, source.images), open_rows(store, source.texts)
    try:
        metadata = pq.ParquetFile(store.open_input(source.metadata))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{source.metadata} cannot be read ({error}): embed its shard again.") from error
    if not images.rows == texts.rows == metadata.metadata.num_rows or images.dimensions != texts.dimensions:
        raise ReleaseEmbeddingsError(
            f"{source.images} has {images.rows} rows of {images.dimensions}, {source.texts} {texts.rows} of "
            f"{texts.dimensions} and {source.metadata} {metadata.metadata.num_rows}: embed its shard again."
        )
    said = metadata.schema_arrow.metadata or {}
    fields = (said.get(key, b"").decode() for key in (b"shoal.model", b"shoal.sha256", b"shoal.config_sha256"))
    return OpenSource(images, texts, metadata, EmbeddingModel(*fields))
