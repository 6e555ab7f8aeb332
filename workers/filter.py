"""Filter: the samples of a shard are scored, and the pairs at or above the threshold become a part in the store.

    claim a shard → load and settle the models, once per run → filter_shard → complete

Three shards are processed at the same time, each under its own lease: one is scored while the next is read and decoded
and the previous one is written. One process uses a device, and its shards share one pipeline.

Invariant: all parts of a run come from the same models. Its first filter worker records the checksums of the models
that it has loaded in the run's recipe; a worker with other checksums refuses to work.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import trio

from dataset.filter.kept_tar import write_kept_tar
from dataset.filter.shard import filter_shard
from dataset.formats.parts import part_bytes
from dataset.models.clip import ClipModel
from dataset.models.files import ModelError
from dataset.models.pipeline import Pipeline
from dataset.models.towers import DeviceError
from dataset.recipe.recipe import ModelRole, Recipe, RecipeError, RecipeMismatchError, settle
from dataset.recipe.tags import TagRecipeError
from dataset.safety.prompts import SafetyError
from dataset.tags.heads import HeadError
from dataset.tags.tagger import Tagger, load_taggers, settle_tagging
from tracker.errors import RecipeRefused
from tracker.protocol.session import Job
from workers.errors import CannotWork
from workers.runtime import metrics
from workers.runtime.context import WorkContext
from workers.runtime.hash_lists import HashListCache
from workers.runtime.loop import Stage
from workers.runtime.model_cache import ModelCache

SHARDS_ABREAST = 3
"""One shard is scored, one is read, one is written."""

Models = Mapping[str, ClipModel]
Taggers = Mapping[str, Tagger]

MISFITS = (
    ModelError,
    RecipeError,
    RecipeMismatchError,
    RecipeRefused,
    HeadError,
    SafetyError,
    TagRecipeError,
)
"""Errors which mean that this worker cannot follow the recipe of a run; another worker may be able to."""


@dataclass(slots=True)
class Filter(Stage[Job]):
    kind = "filter"
    unit = "samples"
    abreast = SHARDS_ABREAST

    pipeline: Pipeline
    model_cache: ModelCache = field(default_factory=ModelCache)
    _settled: dict[int, tuple[Recipe, Models, Taggers]] = field(default_factory=dict)
    _settling: threading.Lock = field(default_factory=threading.Lock)
    _hash_lists: HashListCache = field(default_factory=HashListCache)

    def claim(self, context: WorkContext) -> Sequence[Job]:
        return context.session.claim()

    async def work(self, held: Sequence[Job], context: WorkContext) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(self._filter, held[0], context)

    def size(self, held: Job) -> int:
        return int(held.payload["samples"])

    def count(self, result: Mapping[str, Any]) -> None:
        metrics.SCORED.inc(result["kept"] + sum(result["dropped"].values()))
        metrics.KEPT.inc(result["kept"])

    def _filter(self, job: Job, context: WorkContext) -> Mapping[str, object]:
        with self._settling:  # the thread of the first shard loads the models, the others wait
            recipe, models, taggers = self._settle(job, context)
            restricted = self._hash_lists.current(context)
        try:
            report = filter_shard(
                context.store,
                job.payload["shard"],
                job.output,
                models=models,
                recipe=recipe,
                taggers=taggers,
                hash_lists=restricted,
                pipeline=self.pipeline,
                fetched=_fetched(job),
                on_progress=context.step,
            )
        except (DeviceError, ModelError) as error:
            raise CannotWork(f"job {job.job_id} of run {job.run} was returned: {error}") from error
        result: dict[str, object] = {
            "kept": report.kept,
            "dropped": {str(reason): n for reason, n in report.dropped.items()},
            "bytes": part_bytes(context.store, job.output),
        }
        if job.payload.get("keep_shards") == "kept" and report.kept:
            result["tar_bytes"] = write_kept_tar(context.store, job.payload["shard"], job.output)
        context.session.complete(job, result)
        return {"samples": report.samples, "kept": report.kept}

    def _settle(self, job: Job, context: WorkContext) -> tuple[Recipe, Models, Taggers]:
        """Return the run's recipe with its models and taggers, loaded and compared with the settled ones."""
        if job.run_id not in self._settled:
            try:
                recipe = Recipe.from_json(job.recipe)
                models: Models = {
                    role: self.model_cache.load(recipe.models.of(role), context.store, self.pipeline.batch_samples)
                    for role in ModelRole
                }
                recipe = settle(recipe, {role: model.checksums for role, model in models.items()})
                taggers = load_taggers(recipe, models, context.store, self.model_cache.device)
                recipe = settle_tagging(recipe, taggers)
                context.session.settle_recipe(job.run_id, recipe.to_json())
            except MISFITS as error:
                raise CannotWork(f"cannot filter run {job.run} here: {error}") from error
            self._settled[job.run_id] = recipe, models, taggers
        return self._settled[job.run_id]


def _fetched(job: Job) -> datetime | None:
    """Return the time at which the download job of the shard was completed."""
    seconds = job.payload.get("fetched")
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
