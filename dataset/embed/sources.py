"""The sources of embeddings: the kept samples of a part, all samples of a shard, and WebDataset tars of any origin.

A source is one unit of work: it is read by one caller, and gets one folder of embeddings.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.embeddings import EmbeddingsError
from dataset.formats.parts import PRIVATE_COLUMNS, pair_hash
from dataset.formats.shards import LostSample, Sample, ShardError, read_samples
from dataset.formats.webdataset import TAR_ENDINGS, read_webdataset
from dataset.store.store import Store

ReadSource = Callable[[Callable[[str], object]], Iterator[Sample | LostSample]]


@dataclass(frozen=True, slots=True)
class Source:
    """The samples of one part, shard or tar.

    `read` yields the samples, and calls its argument with the name of each file that belongs to no sample. `metadata`
    returns one row for each sample given, in the order of their keys.
    """

    name: str
    read: ReadSource
    metadata: Callable[[Sequence[Sample]], pa.Table]


def sources_of_parts(store: Store, paths: Iterable[str]) -> Iterator[Source]:
    """Yield the kept samples of each part; `store` holds the parts and their shards."""
    for path in paths:
        yield source_of_part(store, path)


def sources_of_folder(folder: Store) -> Iterator[Source]:
    """Yield the WebDataset tars in a folder and its subfolders, in the order of their names.

    Raises: EmbeddingsError when the folder holds no tar.
    """
    tars = [path for path in folder.list() if path.endswith(TAR_ENDINGS)]
    if not tars:
        raise EmbeddingsError(f"{folder.uri} holds no tar: name a folder of WebDataset shards.")
    for path in tars:
        yield source_of_tar(folder, path)


def source_of_part(store: Store, path: str) -> Source:
    """Return the kept samples of a part, read from the part's own tar if it has one, otherwise from its shards' tars.

    Raises: StoreError when the part does not exist. `read` raises ShardError when the pictures were deleted.
    """
    part = store.read_table(f"{path}.parquet").drop_columns([*PRIVATE_COLUMNS])
    kept = set(part["key"].to_pylist())
    shards = sorted(set(part["shard"].to_pylist()))

    def read(_on_other: Callable[[str], object]) -> Iterator[Sample | LostSample]:
        has_own_tar = store.exists(f"{path}.tar")
        for shard in shards:
            _require_pictures(store, path if has_own_tar else shard)
            for sample in read_samples(store, shard, path if has_own_tar else None):
                if sample.key in kept:
                    yield sample

    def metadata(samples: Sequence[Sample]) -> pa.Table:
        return part.filter(pc.is_in(part["key"], pa.array([sample.key for sample in samples], pa.string())))

    return Source(path, read, metadata)


def source_of_shard(store: Store, path: str) -> Source:
    """Return all samples of a shard, for a run without a filter.

    Raises: `read` raises ShardError when the shard was never finished or its pictures were deleted.
    """

    def read(_on_other: Callable[[str], object]) -> Iterator[Sample | LostSample]:
        _require_pictures(store, path)
        return read_samples(store, path)

    return Source(path, read, _metadata_of_samples)


def source_of_tar(folder: Store, path: str) -> Source:
    """Return the samples of a WebDataset tar, by the rules of `dataset.formats.webdataset`."""
    name = path.partition(".tar")[0].removesuffix(".tgz")
    return Source(name, lambda on_other: read_webdataset(folder, path, on_other), _metadata_of_samples)


def _require_pictures(store: Store, stem: str) -> None:
    if not store.exists(f"{stem}.tar"):
        raise ShardError(
            f"{stem}.tar is no longer in the store {store.uri}, so its pictures cannot be embedded: keep the shards of "
            "such runs longer (tracker keep-shards)."
        )


def _metadata_of_samples(samples: Sequence[Sample]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array([sample.key for sample in samples], pa.string()),
            "URL": pa.array([sample.url for sample in samples], pa.string()),
            "TEXT": pa.array([sample.caption for sample in samples], pa.string()),
            "hash": pa.array([pair_hash(sample.url, sample.caption) for sample in samples], pa.int64()),
        }
    )
