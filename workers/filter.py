"""Filter: a shard's samples are scored, and the pairs at or above the threshold become a part in the store.

    claim a shard → load and settle the models, once a run → filter_shard → complete

The first filter worker of a run settles its recipe with the checksums of the models that it has loaded; one that has
others refuses to work, so no run has parts of two models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from dataset.clip import ClipModel, load_model
from dataset.heads import HeadError
from dataset.models import ModelError
from dataset.recipe import ModelRecipe, ModelRole, Recipe, RecipeError, RecipeMismatchError, settle
from dataset.safety import SafetyError
from dataset.scoring import filter_shard
from dataset.tag_recipe import TagRecipeError
from dataset.tagging import Tagger, load_taggers, settle_tagging
from tracker.errors import RecipeRefused
from tracker.session import Job
from workers.desk import Desk
from workers.errors import CannotWork

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
"""What says that this worker cannot work by a run's recipe; another one may."""


@dataclass(slots=True)
class Filter:
    device: str | None = None
    kind: str = "filter"
    _loaded: dict[ModelRecipe, ClipModel] = field(default_factory=dict)  # by recipe, the threshold aside
    _settled: dict[int, tuple[Recipe, Models, Taggers]] = field(default_factory=dict)

    def claim(self, desk: Desk) -> Sequence[Job]:
        return desk.session.claim()

    async def work(self, held: Sequence[Job], desk: Desk) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(self._filter, held[0], desk)

    def _filter(self, job: Job, desk: Desk) -> Mapping[str, object]:
        recipe, models, taggers = self._settle(job, desk)
        before = desk.progress
        report = filter_shard(
            desk.store,
            job.payload["shard"],
            job.output,
            models=models,
            recipe=recipe,
            taggers=taggers,
            on_progress=lambda done: desk.step(before + done - desk.progress),
        )
        result = {
            "kept": report.kept,
            "dropped": {str(reason): n for reason, n in report.dropped.items()},
            "bytes": desk.store.size(f"{job.output}.parquet"),
        }
        desk.session.complete(job, result)
        return {"samples": report.samples, "kept": report.kept}

    def _settle(self, job: Job, desk: Desk) -> tuple[Recipe, Models, Taggers]:
        """The run's recipe with the models and heads that it names, loaded and agreed upon with the tracker."""
        if job.run_id not in self._settled:
            try:
                recipe = Recipe.from_json(job.recipe)
                models: Models = {role: self._load(recipe.models.of(role), desk) for role in ModelRole}
                recipe = settle(recipe, {role: model.checksums for role, model in models.items()})
                taggers = load_taggers(recipe, models, desk.store, self.device)
                recipe = settle_tagging(recipe, taggers)
                desk.session.settle_recipe(job.run_id, recipe.to_json())
            except MISFITS as error:
                raise CannotWork(f"run {job.run} cannot be filtered here: {error}") from error
            self._settled[job.run_id] = recipe, models, taggers
        return self._settled[job.run_id]

    def _load(self, spec: ModelRecipe, desk: Desk) -> ClipModel:
        model = replace(spec, threshold=0.0)
        if model not in self._loaded:
            self._loaded[model] = load_model(model, desk.store, self.device)
        return self._loaded[model]
