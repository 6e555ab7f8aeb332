"""Models are loaded once each, and compiled only if that is possible."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from dataset.models.clip import ClipModel
from dataset.models.towers import Towers
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store
from workers.runtime.model_cache import ModelCache

SPEC = ModelRecipe("demo", str(Path(__file__).parents[2] / "demo" / "clip"), 0.28)


def rows(_: ClipModel) -> int:
    return 5


def test_a_model_is_loaded_once_whatever_its_threshold(tmp_path: Path) -> None:
    model_cache, store = ModelCache("cpu"), Store.open(str(tmp_path))
    first = model_cache.load(SPEC, store, rows)
    assert model_cache.load(replace(SPEC, threshold=0.3), store, rows) is first
    assert not first.towers.compiled


@pytest.mark.parametrize(
    ("reason", "said"), [(None, "model.compiled model=demo"), ("no compiler", "model.not_compiled model=demo")]
)
def test_a_model_is_compiled_for_its_picture_and_batch_sizes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reason: str | None,
    said: str,
) -> None:
    asked = []

    def compile_(_: Towers, size: tuple[int, int], n: int) -> str | None:
        asked.append((size, n))
        return reason

    monkeypatch.setattr(Towers, "compile", compile_)
    with caplog.at_level(logging.INFO, "shoal.worker"):
        assert ModelCache("cpu", compiled=True).load(SPEC, Store.open(str(tmp_path)), rows).name == "demo"
    assert asked == [((64, 64), 5)]
    assert said in caplog.text
