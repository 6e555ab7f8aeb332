"""Embeddings of a part: row i of each file belongs to the same pair, and the files exist completely or not at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataset.filter.shard import filter_shard
from dataset.formats.embeddings import (
    EmbeddingsError,
    PairEmbeddings,
    embeddings_bytes,
    read_embeddings,
    write_embeddings,
)
from dataset.formats.parts import PART_SCHEMA, part_bytes, write_part
from dataset.models.clip import ClipModel, load_model
from dataset.recipe.recipe import EmbeddingsRecipe, ModelRecipe, Recipe
from dataset.store.store import Store, StoreError
from tests.dataset.filter.test_shard import DEMO, OUTPUT, SHARD, link, planted, write_shard
from tests.dataset.formats.test_parts import DROPPED, KEPT

RNG = np.random.default_rng(3)


def embeddings() -> PairEmbeddings:
    return PairEmbeddings(RNG.normal(size=8).astype(np.float16), RNG.normal(size=8).astype(np.float16))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


@pytest.fixture(scope="module")
def models() -> dict[str, ClipModel]:
    model = load_model(ModelRecipe("demo", str(DEMO), 0.28), device="cpu")
    return {"en": model, "other": model}


@pytest.fixture
def recipe() -> Recipe:
    model = {"model": "demo", "pretrained": "store:models/demo"}
    written = {"models": {"en": model, "other": model}, "embeddings": {"keep": True}}
    return Recipe.from_json(written)


def test_row_i_of_each_file_is_of_the_parts_row_i(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> None:
    write_shard(store, planted(20))
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    part = store.read_table(f"{OUTPUT}.parquet")
    images, texts, about = read_embeddings(store, OUTPUT)
    assert images.dtype == texts.dtype == np.float16
    assert images.shape == texts.shape == (part.num_rows, models["en"].dimensions)
    assert about["image_path"].to_pylist() == part["key"].to_pylist()
    assert about["url"].to_pylist() == part["URL"].to_pylist()
    assert about["caption"].to_pylist() == part["TEXT"].to_pylist()
    cosines = (images.astype(np.float64) * texts.astype(np.float64)).sum(1)
    assert np.allclose(cosines, part["similarity"].to_pylist(), atol=5e-4)
    assert part_bytes(store, OUTPUT) == store.size(f"{OUTPUT}.parquet") + embeddings_bytes(store, OUTPUT)


@pytest.mark.parametrize(("subset", "role"), [("en", "en"), ("multi", "other"), ("nolang", "other")])
def test_a_parts_embeddings_name_the_one_model_that_made_them(
    store: Store, models: dict[str, ClipModel], recipe: Recipe, subset: str, role: str
) -> None:
    write_shard(store, planted(2), subset)
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    _, _, about = read_embeddings(store, OUTPUT)
    said = {key.decode(): value.decode() for key, value in about.schema.metadata.items()}
    assert (said["shoal.role"], said["shoal.model"]) == (role, "demo")
    assert said["shoal.sha256"] == models["en"].checksums.weights
    assert not {"md5", "sha1"} & set(about.column_names)


def test_a_part_keeps_no_embeddings_unless_its_recipe_says_so(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    write_shard(store, planted(4))
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=replace(recipe, embeddings=EmbeddingsRecipe()))
    assert sorted(store.list("parts")) == [f"{OUTPUT}.parquet", f"{OUTPUT}.scores.parquet"]


def test_a_part_without_a_row_has_no_embeddings(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> None:
    write_shard(store, [link(0, "never arrived", None)])
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    assert embeddings_bytes(store, OUTPUT) == 0


def test_a_part_that_cannot_be_written_leaves_no_embeddings(tmp_path: Path) -> None:
    (tmp_path / "parts" / "9.parquet" / "in the way").mkdir(parents=True)
    store = Store.open(str(tmp_path))
    with pytest.raises(StoreError):
        write_part(store, "parts/9", [replace(KEPT, embeddings=embeddings()), DROPPED], shard="shards/7", metadata={})
    assert store.list("parts") == []


def test_embeddings_of_some_samples_only_are_refused(store: Store) -> None:
    with pytest.raises(EmbeddingsError, match="1 embeddings for 2 samples"):
        write_part(
            store,
            "parts/9",
            [replace(KEPT, embeddings=embeddings()), replace(KEPT, key="000000000700003")],
            shard="shards/7",
            metadata={},
        )
    assert store.list("parts") == []


def test_files_that_do_not_belong_together_are_refused(store: Store) -> None:
    table = PART_SCHEMA.empty_table()
    with pytest.raises(EmbeddingsError):
        write_embeddings(store, "parts/9", [embeddings()], table, {})
    write_part(store, "parts/9", [replace(KEPT, embeddings=embeddings())], shard="shards/7", metadata={})
    write_part(
        store,
        "parts/8",
        [replace(KEPT, key=f"00000000070000{i}", embeddings=embeddings()) for i in range(2)],
        shard="shards/7",
        metadata={},
    )
    name = "embeddings/text_emb/text_emb_0.npy"
    store.put(f"parts/9.{name}", store.read(f"parts/8.{name}"))
    with pytest.raises(EmbeddingsError, match="1 pictures, 2 texts and 1 rows"):
        read_embeddings(store, "parts/9")
