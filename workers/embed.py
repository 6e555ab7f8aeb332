"""Embed: a second model over samples that are there already; a part, a shard or a tar becomes a folder of embeddings.

    claim a source → load and settle its model, once a run and name → embed → complete

Several sources are worked on at once, as by the filter: one is embedded, one is read, one is written.

The first embed worker settles the checksums of the model that it has loaded; one that has others refuses to work, and
the tracker lists nothing of it. So all embeddings of a run and a name are of one model.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from dataset.embed.embed import SHARDS_ABREAST, Source, embed, source_of_part, source_of_shard, source_of_tar
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
from workers.runtime.context import Desk
from workers.runtime.model_cache import Loader


@dataclass(slots=True)
class Embed:
    pipeline: Pipeline
    loader: Loader = field(default_factory=Loader)
    abreast: int = SHARDS_ABREAST
    kind: str = "embed"
    _settled: set[tuple[int, str, str, str | None]] = field(default_factory=set)
    _settling: threading.Lock = field(default_factory=threading.Lock)

    def claim(self, desk: Desk) -> Sequence[Job]:
        return desk.session.claim()

    async def work(self, held: Sequence[Job], desk: Desk) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(self._embed, held[0], desk)

    def _embed(self, job: Job, desk: Desk) -> Mapping[str, object]:
        with self._settling:  # of several sources the first one's thread loads, and the others wait for it
            model = self._settle(job, desk)
        try:
            done = embed(_source(job, desk.store), model, self.pipeline, desk.store, job.output, on_progress=desk.step)
        except (DeviceError, ModelError) as error:
            raise CannotWork(f"job {job.job_id} of run {job.run} goes back: {error}") from error
        lost = sum(done.lost.values())
        result: dict[str, object] = {
            "embedded": done.embedded,
            "lost": lost,
            "reasons": {str(reason): n for reason, n in done.lost.items()},
            "other_members": done.other_members,
            "bytes": embeddings_bytes(desk.store, job.output),
            "sha256": model.checksums.weights,
            "config_sha256": model.checksums.config,
        }
        desk.session.complete(job, result)
        return {"embedded": done.embedded, "lost": lost, "other_members": done.other_members}

    def _settle(self, job: Job, desk: Desk) -> ClipModel:
        """The job's model, loaded and agreed upon with the tracker."""
        spec = job.payload["model"], job.payload["pretrained"]
        try:
            model = self.loader.load(ModelRecipe(*spec, threshold=0.0), desk.store, self.pipeline.batch_samples)
            agreed = (job.run_id, job.payload["embedding"], *spec)
            if agreed not in self._settled:
                desk.session.settle_model(job, model.checksums.weights, model.checksums.config)
                self._settled.add(agreed)
        except (ModelError, RecipeError, RecipeRefused) as error:
            raise CannotWork(f"run {job.run} cannot be embedded here: {error}") from error
        return model


def _source(job: Job, store: Store) -> Source:
    told = job.payload
    match told["kind"]:
        case "part":
            return source_of_part(store, told["source"])
        case "shard":
            return source_of_shard(store, told["source"])
        case "tar":
            return source_of_tar(Store.open(told["folder"], writable=False), told["path"])
        case kind:
            raise CannotWork(f"job {job.job_id} is to embed a {kind}, which this version does not know: upgrade it")
