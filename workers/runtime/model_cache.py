"""Load models for filter and embed: each model once, on one device, in one precision."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dataset.models.clip import ClipModel, load_model
from dataset.models.towers import Precision
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store

log = logging.getLogger("shoal.worker")


@dataclass(slots=True)
class ModelCache:
    """Keeps every model that it has loaded. Recipes that differ only in the threshold share a model."""

    device: str | None = None
    precision: Precision | None = None
    compiled: bool = False
    _loaded: dict[ModelRecipe, ClipModel] = field(default_factory=dict)

    def load(self, spec: ModelRecipe, store: Store, batch_samples: Callable[[ClipModel], int]) -> ClipModel:
        """Return the model that a recipe names; compile it if that was requested and is possible.

        Raises: ModelError as `load_model` does.
        """
        spec = replace(spec, threshold=0.0)
        if spec not in self._loaded:
            model = load_model(spec, store, self.device, self.precision)
            if self.compiled:
                _compile(model, batch_samples(model))
            self._loaded[spec] = model
        return self._loaded[spec]


def _compile(model: ClipModel, rows: int) -> None:
    started = time.monotonic()
    reason = model.towers.compile((model.preparation.height, model.preparation.width), rows)
    if reason is None:
        log.info("model.compiled model=%s seconds=%.1f", model.name, time.monotonic() - started)
    else:
        log.warning("model.not_compiled model=%s reason=%r", model.name, reason)
