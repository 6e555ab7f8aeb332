"""Embed: a further model embeds existing samples; a part, a shard or a tar becomes a folder of embeddings.

    claim a source → load and settle its model, once per run and name → embed → complete

Three sources are processed at the same time, as in the filter: one is embedded, one is read, one is written.

Invariant: all embeddings with the same run and name come from one model. The first embed worker records the checksums
of the model that it has loaded; a worker with other checksums refuses to work.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from dataset.embed.embed import SHARDS_ABREAST, embed
from dataset.embed.sources import Source, source_of_part, source_of_shard, source_of_tar
from dataset.formats.embeddings import embeddings_bytes
from dataset.models.clip import ClipModel
from dataset.models.files import ModelError
from dataset.models.pipeline import Pipeline
from dataset.models.towers import DeviceError
from dataset.recipe.recipe import ModelRecipe, RecipeError
from dataset.store.store import Store
from tracker.errors import RecipeRefused
from tracker.protocol.session import Job
from workers.errors import CannotWork
from workers.runtime import metrics
from workers.runtime.context import WorkContext
from workers.runtime.loop import Stage
from workers.runtime.model_cache import ModelCache


@dataclass(slots=True)
class Embed(Stage[Job]):
    kind = "embed"
    unit = "samples"
    abreast = SHARDS_ABREAST

    pipeline: Pipeline
    model_cache: ModelCache = field(default_factory=ModelCache)
    _settled: set[tuple[int, str, str, str | None]] = field(default_factory=set)
    _settling: threading.Lock = field(default_factory=threading.Lock)

    def claim(self, context: WorkContext) -> Sequence[Job]:
        return context.session.claim()

    async def work(self, held: Sequence[Job], context: WorkContext) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(self._embed, held[0], context)

    def size(self, held: Job) -> int:
        return int(held.payload.get("samples") or 0)  # a tar's size is unknown

    def count(self, result: Mapping[str, Any]) -> None:
        metrics.EMBEDDED.inc(result["embedded"])

    def _embed(self, job: Job, context: WorkContext) -> Mapping[str, object]:
        with self._settling:  # the thread of the first source loads the model, the others wait
            model = self._settle(job, context)
        try:
            done = embed(
                _source(job, context.store), model, self.pipeline, context.store, job.output, on_progress=context.step
            )
        except (DeviceError, ModelError) as error:
            raise CannotWork(f"job {job.job_id} of run {job.run} was returned: {error}") from error
        lost = sum(done.lost.values())
        result: dict[str, object] = {
            "embedded": done.embedded,
            "lost": lost,
            "reasons": {str(reason): n for reason, n in done.lost.items()},
            "other_members": done.other_members,
            "bytes": embeddings_bytes(context.store, job.output),
            "sha256": model.checksums.weights,
            "config_sha256": model.checksums.config,
        }
        context.session.complete(job, result)
        return {"embedded": done.embedded, "lost": lost, "other_members": done.other_members}

    def _settle(self, job: Job, context: WorkContext) -> ClipModel:
        """Return the job's model, loaded and compared with the checksums that are settled in the tracker."""
        spec = job.payload["model"], job.payload["pretrained"]
        try:
            model = self.model_cache.load(ModelRecipe(*spec, threshold=0.0), context.store, self.pipeline.batch_samples)
            agreed = (job.run_id, job.payload["embedding"], *spec)
            if agreed not in self._settled:
                context.session.settle_model(job, model.checksums.weights, model.checksums.config)
                self._settled.add(agreed)
        except (ModelError, RecipeError, RecipeRefused) as error:
            raise CannotWork(f"cannot embed run {job.run} here: {error}") from error
        return model


def _source(job: Job, store: Store) -> Source:
    payload = job.payload
    match payload["kind"]:
        case "part":
            return source_of_part(store, payload["source"])
        case "shard":
            return source_of_shard(store, payload["source"])
        case "tar":
            return source_of_tar(Store.open(payload["folder"], writable=False), payload["path"])
        case kind:
            raise CannotWork(f"job {job.job_id} embeds a {kind}, which this version does not support: upgrade Shoal")
