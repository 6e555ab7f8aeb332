"""The recipe: invalid values, defaults, and that a second model cannot get into a crawl."""

import json
from typing import Any

import pytest

from dataset.errors import DatasetError
from dataset.recipe.recipe import Checksums, Recipe, RecipeError, RecipeMismatchError, settle

WEIGHTS, OTHER_WEIGHTS, CONFIG, OTHER_CONFIG = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ([], "The recipe is []"),
        ({"version": 2}, "version"),
        ({"filters": {}}, "unknown key 'filters'"),
        ({"filter": None}, "give true or false"),
        ({"sha256_column": "sha256"}, 'sha256_column is "sha256": name an extra column of strings'),
        ({"extra": {"sha256": "int64"}, "sha256_column": "sha256"}, "name an extra column of strings"),
        ({"page_opt_outs": ["noai"]}, 'page_opt_outs is ["noai"]: give true or false'),
        ({"extra": {"boxes": "tensor"}}, "is not a type"),
        ({"text": {"min_chars": 5}}, "unknown key 'min_chars'"),
        ({"text": {"min_characters": 0}}, "min_characters"),
        ({"text": {"min_characters": True}}, "text.min_characters is true: give a whole number"),
        ({"text": {"min_characters": 2.5}}, "give a whole number"),
        ({"text": {"min_characters": 20, "max_characters": 10}}, "min_characters"),
        ({"language": {"rule": "guess"}}, "laion, length-aware"),
        ({"language": {"rule": ["laion"]}}, "laion, length-aware"),
        ({"image": {"size": 0}}, "size"),
        ({"image": {"sise": 256}}, "sise"),
        ({"image": None}, "give a JSON object"),
        ({"embeddings": {"keep": 1}}, "embeddings.keep is 1: give true or false"),
        ({"models": {"de": {}}}, "unknown key 'de'"),
        ({"models": {"en": {"threshold": "0.3"}}}, 'models.en.threshold is "0.3": give a number'),
        ({"models": {"en": {"threshold": 28}}}, "is not a cosine"),
        ({"models": {"en": {"threshold": float("nan")}}}, "is not a cosine"),
        ({"models": {"en": {"model": "ViT-L-14"}}}, "has no weights"),
        ({"models": {"en": {"model": "ViT-L-14", "pretrained": ""}}}, "has no weights"),
        ({"models": {"en": {"pretrained": None}}}, "needs a tag, a file or a folder"),
        ({"models": {"en": {"model": "hf-hub:laion/x", "pretrained": "openai"}}}, "brings its own weights"),
        ({"models": {"en": {"sha256": "abc"}}}, "is not a sha256"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_in_one_sentence(written: Any, sentence: str) -> None:
    with pytest.raises(DatasetError) as caught:
        Recipe.from_json(written)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_recipe_is_laions() -> None:
    models = Recipe.from_json({}).models
    assert (models.en.threshold, models.other.threshold) == (0.28, 0.26)
    assert models.en.model == "ViT-B-32-quickgelu"


def test_a_recipe_survives_json_and_keeps_its_digest() -> None:
    written = {
        "text": {"min_characters": 3},
        "language": {"rule": "length-aware"},
        "image": {"size": 384, "resize_mode": "center_crop"},
        "models": {
            "en": {"model": "demo", "pretrained": "store:models/demo", "threshold": 1},
            "other": {"model": "hf-hub:a/b"},
        },
    }
    recipe = Recipe.from_json(written)
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert recipe.models.other.threshold == 0.26


def test_the_digest_depends_on_everything_that_determines_the_data() -> None:
    assert Recipe.from_json({"models": {"en": {"threshold": 0.3}}}).digest() != Recipe().digest()


def test_a_threshold_alone_keeps_the_default_model() -> None:
    assert Recipe.from_json({"models": {"en": {"threshold": 0.3}}}).models.en.pretrained == "openai"


def test_the_first_worker_settles_the_checksums() -> None:
    settled = settle(Recipe(), {"en": Checksums(WEIGHTS, CONFIG)})
    assert (settled.models.en.sha256, settled.models.en.config_sha256) == (WEIGHTS, CONFIG)
    assert settled.models.other == Recipe().models.other
    assert settle(settled, {"en": Checksums(WEIGHTS, CONFIG)}) == settled


@pytest.mark.parametrize("second", [Checksums(OTHER_WEIGHTS, CONFIG), Checksums(WEIGHTS, OTHER_CONFIG)])
def test_a_second_model_in_a_crawl_is_refused(second: Checksums) -> None:
    settled = settle(Recipe(), {"en": Checksums(WEIGHTS, CONFIG)})
    with pytest.raises(RecipeMismatchError, match="start a new run"):
        settle(settled, {"en": second})


def test_the_errors_are_of_one_family() -> None:
    assert issubclass(RecipeError, DatasetError)
    assert issubclass(RecipeMismatchError, DatasetError)
