"""Embed: a second model over samples that are there already, a shard at a time.

    the kept samples of a run's shards  ──┐    (all of a shard, where a run has no filter)
    anyone's WebDataset tars            ──┴─▶ Pipeline ─▶ <target>/<model>/<source>.embeddings

Invariant: a shard's metadata are written last and name the model's checksums; where they are and name these, the shard
is done and is not embedded again. So what was interrupted is called once more, and goes on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from dataset.errors import DatasetError
from dataset.formats.embeddings import (
    METADATA,
    EmbeddingsError,
    PairEmbeddings,
    embeddings_folder,
    pair_rows,
    write_embeddings,
)
from dataset.formats.parts import PRIVATE_COLUMNS, Verdict, pair_hash
from dataset.formats.shards import LostSample, Sample, ShardError, read_samples
from dataset.formats.webdataset import read_webdataset
from dataset.models.clip import ClipModel
from dataset.models.files import ModelError
from dataset.models.oldest_first import prefetch
from dataset.models.pipeline import Pipeline
from dataset.models.towers import DeviceError
from dataset.store.store import Store, StoreError

CHECKSUMS = ("shoal.sha256", "shoal.config_sha256")
"""Weights, and configuration with preprocessing: the same weights behind another preprocessing are another model."""

SHARDS_ABREAST = 3
"""One is embedded, one is read, one is written."""


@dataclass(frozen=True, slots=True)
class Source:
    """One shard to embed.

    `read` yields its samples, and calls back with the name of each file that belongs to none; `about` returns what is
    known of those keys, in their order.
    """

    name: str
    read: Callable[[Callable[[str], object]], Iterator[Sample | LostSample]]
    about: Callable[[Sequence[Sample]], pa.Table]


@dataclass(frozen=True, slots=True)
class Embedding:
    """What became of a source: its samples are those embedded and those lost, counted by verdict where it happened."""

    name: str
    embedded: int = 0
    lost: dict[Verdict, int] = field(default_factory=dict)
    other_members: int = 0
    """Files of a tar that belong to no sample."""
    skipped: bool = False
    """It was done before."""
    error: str | None = None


def sources_of_parts(store: Store, paths: Iterable[str]) -> Iterator[Source]:
    """Give the kept samples of parts, which lie in `store` with their shards."""
    for path in paths:
        yield source_of_part(store, path)


def sources_of_folder(folder: Store) -> Iterator[Source]:
    """Give the WebDataset tars of a folder and of those below it, by name.

    Raises: EmbeddingsError when there is none.
    """
    tars = [path for path in folder.list() if path.endswith((".tar", ".tar.gz", ".tgz"))]
    if not tars:
        raise EmbeddingsError(f"{folder.uri} holds no tar: name a folder of WebDataset shards.")
    for path in tars:
        yield source_of_tar(folder, path)


def embed_all(
    sources: Iterable[Source], model: ClipModel, pipeline: Pipeline, target: Store, prefix: str
) -> Iterator[Embedding]:
    """Embed sources, several at once, into `<prefix>/<name>.embeddings`; one that cannot be read spoils no other.

    Raises: DeviceError, ModelError when this machine cannot go on.
    """
    with ThreadPoolExecutor(SHARDS_ABREAST) as threads:
        started = (threads.submit(_embed_or_say_why, source, model, pipeline, target, prefix) for source in sources)
        yield from prefetch(started, SHARDS_ABREAST, lambda: None)


def _embed_or_say_why(source: Source, model: ClipModel, pipeline: Pipeline, target: Store, prefix: str) -> Embedding:
    try:
        return embed(source, model, pipeline, target, f"{prefix}/{source.name}")
    except (ModelError, DeviceError):
        raise
    except DatasetError as error:
        return Embedding(source.name, error=str(error))


def embed(
    source: Source,
    model: ClipModel,
    pipeline: Pipeline,
    target: Store,
    output: str,
    on_progress: Callable[[int], None] = lambda _samples: None,
) -> Embedding:
    """Embed one source into `<output>.embeddings`, unless that is done.

    `on_progress` is called with the samples of each batch that has left the pipeline, and twice a second with 0 while
    one is waited for; it may raise to end it all.

    Raises: ShardError, StoreError when it cannot be read or written; DeviceError, ModelError; whatever `on_progress`
    raises.
    """
    made_with = model.metadata | {"shoal.version": version("shoal"), "shoal.source": source.name}
    if _is_done(target, output, made_with):
        return Embedding(source.name, skipped=True)
    samples: list[Sample] = []
    rows: list[PairEmbeddings] = []
    lost: Counter[Verdict] = Counter()
    others: Counter[str] = Counter()
    items = source.read(lambda _name: others.update(members=1))
    batches = _batches(_readable(items, lost), model, pipeline.batch_samples(model))
    for batch in pipeline.embed(batches, while_waiting=lambda: on_progress(0)):
        samples += [_without_picture(sample) for sample in batch.samples]
        rows += pair_rows(batch.image_features, batch.text_features)
        lost[Verdict.UNDECODABLE] += len(batch.undecodable)
        lost[Verdict.WITHOUT_DIRECTION] += len(batch.without_direction)
        on_progress(len(batch.samples) + len(batch.undecodable) + len(batch.without_direction))
    order = sorted(range(len(samples)), key=lambda i: samples[i].key)
    samples, rows = [samples[i] for i in order], [rows[i] for i in order]
    write_embeddings(target, output, rows, source.about(samples), made_with, dimensions=model.dimensions)
    return Embedding(source.name, len(rows), {verdict: n for verdict, n in sorted(lost.items()) if n}, others.total())


def _readable(samples: Iterator[Sample | LostSample], lost: Counter[Verdict]) -> Iterator[Sample]:
    """Yield the samples that have a picture, and count the others."""
    for sample in samples:
        if isinstance(sample, Sample):
            yield sample
        else:
            lost[Verdict.UNREADABLE] += 1


def _is_done(target: Store, output: str, made_with: dict[str, str]) -> bool:
    path = f"{embeddings_folder(output)}/{METADATA}"
    if not target.exists(path):
        return False
    try:
        known = target.read_table(path, []).schema.metadata or {}
    except StoreError:
        return False
    if all(known.get(name.encode(), b"").decode() == made_with[name] for name in CHECKSUMS):
        return True
    raise EmbeddingsError(f"{path} is of another model of this name: give the model another name, or another target.")


def source_of_part(store: Store, path: str) -> Source:
    """Give the kept samples of a part: from its own tar if it has one, else from its shard's.

    Raises: StoreError when there is no such part; reading it, ShardError when the pictures are deleted.
    """
    part = store.read_table(f"{path}.parquet").drop_columns([*PRIVATE_COLUMNS])
    kept = set(part["key"].to_pylist())
    shards = sorted(set(part["shard"].to_pylist()))

    def read(_on_other: Callable[[str], object]) -> Iterator[Sample | LostSample]:
        has_own = store.exists(f"{path}.tar")
        for shard in shards:
            _require_pictures(store, path if has_own else shard)
            for sample in read_samples(store, shard, path if has_own else None):
                if sample.key in kept:
                    yield sample

    def about(samples: Sequence[Sample]) -> pa.Table:
        return part.filter(pc.is_in(part["key"], pa.array([sample.key for sample in samples], pa.string())))

    return Source(path, read, about)


def source_of_shard(store: Store, path: str) -> Source:
    """Give all samples of a shard, for a run without a filter.

    Raises: reading it, ShardError when it was never finished or its pictures are deleted.
    """

    def read(_on_other: Callable[[str], object]) -> Iterator[Sample | LostSample]:
        _require_pictures(store, path)
        return read_samples(store, path)

    return Source(path, read, _told_by_samples)


def source_of_tar(folder: Store, path: str) -> Source:
    """Give the samples of a WebDataset tar of anyone's; `dataset.formats.webdataset` says which those are."""
    name = path.partition(".tar")[0].removesuffix(".tgz")
    return Source(name, lambda on_other: read_webdataset(folder, path, on_other), _told_by_samples)


def _require_pictures(store: Store, stem: str) -> None:
    if not store.exists(f"{stem}.tar"):
        raise ShardError(
            f"{stem}.tar is no longer in the store {store.uri}: its pictures were deleted, so nothing can embed them; "
            "let runs that are to be embedded keep their shards longer (tracker keep-shards)."
        )


def _told_by_samples(samples: Sequence[Sample]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array([sample.key for sample in samples], pa.string()),
            "URL": pa.array([sample.url for sample in samples], pa.string()),
            "TEXT": pa.array([sample.caption for sample in samples], pa.string()),
            "hash": pa.array([pair_hash(sample.url, sample.caption) for sample in samples], pa.int64()),
        }
    )


def _without_picture(sample: Sample) -> Sample:
    return replace(sample, image=b"")


def _batches(samples: Iterator[Sample], model: ClipModel, size: int) -> Iterator[tuple[ClipModel, list[Sample]]]:
    while batch := list(islice(samples, size)):
        yield model, batch
