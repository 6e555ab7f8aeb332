"""Embed existing samples with a second model, one source at a time.

    Source ─▶ Pipeline ─▶ <target>/<model>/<source>.embeddings

Invariant: a source's metadata file is written last and contains the model's checksums. A source whose metadata file
has these checksums is done and is skipped, so an interrupted call is repeated and continues.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from dataset.embed.sources import Source
from dataset.errors import DatasetError
from dataset.formats.embeddings import (
    METADATA,
    EmbeddingsError,
    PairEmbeddings,
    embeddings_folder,
    pair_rows,
    write_embeddings,
)
from dataset.formats.parts import Verdict
from dataset.formats.shards import LostSample, Sample
from dataset.models.batches import in_batches
from dataset.models.clip import ClipModel
from dataset.models.files import ModelError
from dataset.models.oldest_first import prefetch
from dataset.models.pipeline import Pipeline
from dataset.models.towers import DeviceError
from dataset.store.store import Store, StoreError

CHECKSUMS = ("shoal.sha256", "shoal.config_sha256")
"""Checksums of the weights and of the configuration: the same weights with another preprocessing are another model."""

SHARDS_ABREAST = 3
"""Sources in progress at once: one is read, one is embedded, one is written."""


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """The result for one source. `lost` counts the samples that could not be embedded, by reason."""

    name: str
    embedded: int = 0
    lost: dict[Verdict, int] = field(default_factory=dict)
    other_members: int = 0
    """Files of a tar that belong to no sample."""
    skipped: bool = False
    """The source was already done."""
    error: str | None = None


def embed_all(
    sources: Iterable[Source], model: ClipModel, pipeline: Pipeline, target: Store, prefix: str
) -> Iterator[EmbedReport]:
    """Embed each source into `<prefix>/<name>.embeddings`, several at once; an unreadable source does not stop others.

    Raises: DeviceError, ModelError when this machine cannot continue.
    """
    with ThreadPoolExecutor(SHARDS_ABREAST) as threads:
        started = (threads.submit(_embed_or_report, source, model, pipeline, target, prefix) for source in sources)
        yield from prefetch(started, SHARDS_ABREAST, lambda: None)


def _embed_or_report(source: Source, model: ClipModel, pipeline: Pipeline, target: Store, prefix: str) -> EmbedReport:
    try:
        return embed(source, model, pipeline, target, f"{prefix}/{source.name}")
    except (ModelError, DeviceError):
        raise
    except DatasetError as error:
        return EmbedReport(source.name, error=str(error))


def embed(
    source: Source,
    model: ClipModel,
    pipeline: Pipeline,
    target: Store,
    output: str,
    on_progress: Callable[[int], None] = lambda _samples: None,
) -> EmbedReport:
    """Embed one source into `<output>.embeddings`, unless that is already done.

    `on_progress` is called with the number of samples in each finished batch, and with 0 twice a second while waiting;
    an exception that it raises stops the work.

    Raises: ShardError, StoreError when files cannot be read or written; DeviceError, ModelError; what `on_progress`
    raises.
    """
    made_with = model.metadata | {"shoal.version": version("shoal"), "shoal.source": source.name}
    if _is_done(target, output, made_with):
        return EmbedReport(source.name, skipped=True)
    samples: list[Sample] = []
    rows: list[PairEmbeddings] = []
    lost: Counter[Verdict] = Counter()
    others: Counter[str] = Counter()
    items = source.read(lambda _name: others.update(members=1))
    readable = in_batches(_readable(items, lost), lambda _: model.name, lambda _: pipeline.batch_samples(model))
    batches = ((model, batch) for _, batch in readable)
    for batch in pipeline.embed(batches, while_waiting=lambda: on_progress(0)):
        samples += [replace(sample, image=b"") for sample in batch.samples]
        rows += pair_rows(batch.image_features, batch.text_features)
        lost[Verdict.UNDECODABLE] += len(batch.undecodable)
        lost[Verdict.WITHOUT_DIRECTION] += len(batch.without_direction)
        on_progress(len(batch.samples) + len(batch.undecodable) + len(batch.without_direction))
    order = sorted(range(len(samples)), key=lambda i: samples[i].key)
    samples, rows = [samples[i] for i in order], [rows[i] for i in order]
    write_embeddings(target, output, rows, source.metadata(samples), made_with, dimensions=model.dimensions)
    return EmbedReport(source.name, len(rows), {verdict: n for verdict, n in sorted(lost.items()) if n}, others.total())


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
    raise EmbeddingsError(
        f"{path} was made by another model of the same name: give this model another name, or another target."
    )
