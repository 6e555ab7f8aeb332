"""Tags and drops in the filter: the columns, the embeddings that are used, and that only a count remains of a dropped
sample.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from dataset.filter.shard import filter_shard
from dataset.formats.parts import Verdict
from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import sample_key
from dataset.main import app
from dataset.models.clip import ClipModel, load_model
from dataset.models.inputs import Square
from dataset.pictures.open_stored import open_stored
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules
from dataset.recipe.recipe import ModelRecipe, Recipe
from dataset.recipe.tags import Tag, TagRecipeError
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store
from dataset.tags.heads import Embedder, Head, HeadError, Layer, Output, add_head
from dataset.tags.picture_heads import PictureLayout, picture_head_bytes
from dataset.tags.tagger import load_taggers, settle_tagging
from tests.demo.lessons import SCENES
from tests.demo.pictures import Colour, Scene, Shape, caption, random_scene, render
from tracker.storage.hash_lists import pack

DEMO = Path(__file__).parents[2] / "demo" / "clip"
SHARD, OUTPUT = "shards/7-lease", "parts/9-lease"
DIMENSIONS = 128
PLANTED = """
version = 1
[axes.planted]
concern = ["red_heart"]
ordinary = ["other"]
margin = 0.0
[[rules]]
reason = "unsafe_minor"
all = ["planted"]
"""


@pytest.fixture(scope="module")
def models() -> dict[str, ClipModel]:
    model = load_model(ModelRecipe("demo", str(DEMO), 0.28), device="cpu")
    return {"en": model, "other": model}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def linear_head(tag: Tag = Tag.PUNSAFE, seed: int = 1, dimensions: int = DIMENSIONS, **checksums: str | None) -> Head:
    rng = np.random.default_rng(seed)
    layer = Layer(rng.normal(0, 1, (1, dimensions)).astype(np.float32), np.zeros(1, np.float32), False)
    output = Output.IDENTITY if tag is Tag.AESTHETIC else Output.SIGMOID
    return Head(tag, (layer,), output, Embedder("demo", **checksums))


def small_layout(side: int) -> PictureLayout:
    return PictureLayout("mobilenetv3_small_050", side, ("watermark", "clear"))


def random_state(layout: PictureLayout) -> dict[str, Any]:
    torch.manual_seed(layout.side)
    return {name: tensor.numpy() for name, tensor in layout.network().state_dict().items()}


def recipe_with(tags: dict[str, Any] | None = None, prompts: str | None = None) -> Recipe:
    model = {"model": "demo", "pretrained": "store:models/demo"}
    return Recipe.from_json(
        {
            "models": {"en": model, "other": model},
            "tags": {"en": tags or {}, "other": tags or {}},
            "safety": {"prompts": prompts},
        }
    )


def planted_prompts() -> bytes:
    """Write prompts by which red hearts are dropped, in the words that the demo's model knows."""
    labels = {"red_heart": [caption(scene, "en") for scene in SCENES if is_planted(scene)]}
    labels["other"] = [caption(scene, "en") for scene in SCENES[::11] if not is_planted(scene)]
    return (
        PLANTED + "".join(f"[labels.{name}]\nen = {json.dumps(texts)}\n" for name, texts in labels.items())
    ).encode()


def is_planted(scene: Scene) -> bool:
    return scene.colour is Colour.RED and scene.shape is Shape.HEART


def write_shard(store: Store, scenes: list[Scene], rng: np.random.Generator) -> None:
    with ShardWriter(store, SHARD, job_id=7, subset="en") as writer:
        for position, scene in enumerate(scenes):
            sent = io.BytesIO()
            render(scene, (300, 300), rng).save(sent, "JPEG", quality=90)
            picture = prepare(sent.getvalue(), ImageRules())
            assert isinstance(picture, Picture)
            writer.add(
                LinkRow(
                    position=position,
                    pack=3,
                    pack_row=position,
                    attempt=1,
                    final=True,
                    language="en",
                    url=f"http://a.example/{position}.jpg",
                    caption=caption(scene, "en", position),
                    outcome=Outcome.SUCCESS,
                    picture=picture,
                )
            )
        writer.publish()


def scenes_of(count: int, seed: int = 5) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


def test_each_kept_pair_has_the_tags_that_the_recipe_names(store: Store, models: dict[str, ClipModel]) -> None:
    unsafe, aesthetic = linear_head(), linear_head(Tag.AESTHETIC, 2)
    places = [add_head(store, head.tag.value, head.to_bytes()) for head in (unsafe, aesthetic)]
    recipe = recipe_with({"punsafe": {"head": places[0]}, "aesthetic": {"head": places[1]}})
    scenes, rng = scenes_of(12), np.random.default_rng(2)
    write_shard(store, scenes, rng)
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    rows = store.read_table(f"{OUTPUT}.parquet").to_pylist()
    assert rows
    images = dict(zip([s.key for s in _samples(store)], _embedded(store, models["en"]), strict=True))
    for row in rows:
        logit = float(images[row["key"]] @ unsafe.layers[0].weight[0])
        assert row["punsafe"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
        assert row["aesthetic"] == pytest.approx(float(images[row["key"]] @ aesthetic.layers[0].weight[0]), abs=1e-5)
        assert row["pwatermark"] is None


def test_heads_on_pictures_of_two_sizes_tag_the_kept_pictures(store: Store, models: dict[str, ClipModel]) -> None:
    layouts = {"pwatermark": small_layout(64), "punsafe": small_layout(96)}
    files = {tag: picture_head_bytes(layout, Tag(tag), random_state(layout), {}) for tag, layout in layouts.items()}
    recipe = recipe_with({tag: {"head": add_head(store, tag, file)} for tag, file in files.items()})
    write_shard(store, scenes_of(6), np.random.default_rng(2))
    filter_shard(store, SHARD, "parts/all", models=models, recipe=recipe)
    kept = {row["key"]: row for row in store.read_table("parts/all.parquet").to_pylist()}
    assert kept
    for tag, layout in layouts.items():
        head = load_taggers(recipe, models, store, "cpu")["en"].picture_heads[Tag(tag)]
        for sample in _samples(store):
            if sample.key in kept:
                picture = open_stored(sample.image)
                assert picture is not None
                square = np.frombuffer(Square(layout.side)(picture), np.uint8)
                expected = head.score(square.reshape(1, layout.side, layout.side, 3))[0]
                assert kept[sample.key][tag] == pytest.approx(float(expected), abs=1e-5)
                assert kept[sample.key]["dhash"] is not None


def _samples(store: Store) -> list[Any]:
    from dataset.formats.shards import read_samples

    return list(read_samples(store, SHARD))


def _embedded(store: Store, model: ClipModel) -> Any:
    return model.embed_images([image for s in _samples(store) if (image := open_stored(s.image)) is not None])


def test_of_a_dropped_sample_a_count_is_left_and_nothing_else(store: Store, models: dict[str, ClipModel]) -> None:
    store.put("safety/planted.toml", planted_prompts())
    recipe = recipe_with(prompts="store:safety/planted.toml")
    scenes = scenes_of(60)
    for place in (3, 17, 40):
        scenes[place] = Scene(Shape.HEART, Colour.RED, 1 + place % 4, scenes[place].position, scenes[place].texture)
    write_shard(store, scenes, np.random.default_rng(2))
    report = filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    dropped = report.dropped[Verdict.UNSAFE_MINOR]
    kept, scores = store.read_table(f"{OUTPUT}.parquet"), store.read_table(f"{OUTPUT}.scores.parquet")
    gone = {sample_key(7, place) for place in (3, 17, 40)}
    assert dropped >= 3
    assert report.samples == report.kept + sum(report.dropped.values()) == 60
    assert scores.num_rows == 60 - dropped
    assert not gone & (set(kept["key"].to_pylist()) | set(scores["key"].to_pylist()))
    assert not any(key.encode() in store.read(f"{SHARD}.tar") for key in gone)
    again = filter_shard(store, SHARD, "parts/again", models=models, recipe=recipe)
    assert again == report
    assert store.read(f"{OUTPUT}.parquet") == store.read("parts/again.parquet")


@pytest.mark.parametrize("kind", ["sha256", "md5", "pdq"])
def test_a_restricted_sample_is_gone_before_it_is_scored(store: Store, models: dict[str, ClipModel], kind: str) -> None:
    write_shard(store, scenes_of(4), np.random.default_rng(2))
    rows = store.read_table(f"{SHARD}.parquet")
    known = hashlib.new("sha256" if kind == "pdq" else kind, b"one").hexdigest()
    index = rows.schema.get_field_index(kind)
    listed_row = pa.array([known if place == 2 else None for place in range(rows.num_rows)], pa.string())
    store.write_table(f"{SHARD}.parquet", rows.set_column(index, kind, listed_row))
    store.put("restricted/list", pack([(kind, known)])[0])
    report = filter_shard(
        store,
        SHARD,
        OUTPUT,
        models=models,
        recipe=recipe_with(),
        hash_lists=HashLists.load(store, "restricted/list"),
    )
    assert report.dropped[Verdict.RESTRICTED] == 1
    assert sample_key(7, 2).encode() not in store.read(f"{SHARD}.tar")
    assert known not in store.read_table(f"{SHARD}.parquet")[kind].to_pylist()
    later = filter_shard(store, SHARD, "parts/later", models=models, recipe=recipe_with())
    assert later == report


def test_a_part_says_by_which_heads_and_prompts_it_was_made(store: Store, models: dict[str, ClipModel]) -> None:
    place = add_head(store, "a", linear_head().to_bytes())
    write_shard(store, scenes_of(3), np.random.default_rng(2))
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe_with({"punsafe": {"head": place}}, "builtin:1"))
    metadata = store.read_table(f"{OUTPUT}.parquet").schema.metadata
    tags, safety = json.loads(metadata[b"shoal.tags"]), json.loads(metadata[b"shoal.safety"])
    assert len(tags["en"]["punsafe"]["sha256"]) == 64
    assert (safety["prompts"], len(safety["sha256"])) == ("builtin:1", 64)
    assert sum(json.loads(metadata[b"shoal.verdicts"]).values()) == 3


# --- what is refused


@pytest.mark.parametrize(
    ("head", "named", "sentence"),
    [
        (linear_head(dimensions=64), "punsafe", "64 dimensions"),
        (linear_head(sha256="0" * 64), "punsafe", "another model's weights"),
        (linear_head(config_sha256="0" * 64), "punsafe", "another model's configuration or preprocessing"),
        (linear_head(Tag.AESTHETIC), "punsafe", "computes aesthetic"),
        (None, "punsafe", "has no head"),
    ],
)
def test_a_head_of_another_model_tags_nothing(
    store: Store, models: dict[str, ClipModel], head: Head | None, named: str, sentence: str
) -> None:
    place = add_head(store, "a", head.to_bytes()) if head else "store:heads/a.safetensors"
    with pytest.raises(HeadError, match=sentence):
        load_taggers(recipe_with({named: {"head": place}}), models, store)


def test_a_head_that_is_not_the_crawls_is_refused(store: Store, models: dict[str, ClipModel]) -> None:
    place = add_head(store, "a", linear_head().to_bytes())
    recipe = recipe_with({"punsafe": {"head": place}})
    settled = settle_tagging(recipe, load_taggers(recipe, models, store))
    assert settle_tagging(settled, load_taggers(settled, models, store)) == settled
    assert Recipe.from_json(settled.to_json()) == settled
    store.put("heads/a.safetensors", linear_head(seed=9).to_bytes())
    with pytest.raises(TagRecipeError, match="start a new run"):
        settle_tagging(settled, load_taggers(settled, models, store))


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"tags": {"fr": {}}}, "unknown key 'fr'"),
        ({"tags": {"en": {"funny": None}}}, "unknown key 'funny'"),
        ({"tags": {"en": {"punsafe": {}}}}, "has no head"),
        ({"tags": {"en": {"punsafe": {"head": ""}}}}, "is empty"),
        ({"tags": {"en": {"punsafe": "x"}}}, "give a JSON object"),
        ({"tags": {"en": {"punsafe": {"head": "x", "sha256": "abc"}}}}, "is not a sha256"),
        ({"safety": {"prompts": ""}}, "is empty"),
        ({"safety": {"prompts": 3}}, "is empty"),
        ({"safety": {"rule": "x"}}, "unknown key 'rule'"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_in_one_sentence(written: Any, sentence: str) -> None:
    with pytest.raises(TagRecipeError) as caught:
        Recipe.from_json(written)
    assert sentence in str(caught.value)


# --- the commands


def test_heads_add_takes_a_published_head_and_says_what_to_write(tmp_path: Path) -> None:
    weights = tmp_path / "sa.npz"
    np.savez(weights, weight=np.ones((1, 512), np.float32), bias=np.zeros(1, np.float32))
    command = ["heads", "add", "sa", "--weights", str(weights), "--store", str(tmp_path / "store")]
    assert isinstance(CliRunner().invoke(app, command).exception, HeadError)
    told = CliRunner().invoke(app, [*command, "--model", "ViT-B-32 openai"])
    entry = json.loads(told.stdout)
    assert entry["head"] == "store:heads/sa.safetensors"
    listed = CliRunner().invoke(app, ["heads", "list", "--store", str(tmp_path / "store")])
    assert listed.stdout == "store:heads/sa.safetensors\n"
    own = tmp_path / "store" / "heads" / "sa.safetensors"
    again = CliRunner().invoke(
        app, ["heads", "add", "other", "--weights", str(own), "--store", str(tmp_path / "store")]
    )
    assert json.loads(again.stdout)["sha256"] == entry["sha256"]


def test_safety_add_refuses_what_does_not_hold_together(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(planted_prompts())
    told = CliRunner().invoke(app, ["safety", "add", str(file), "--store", str(tmp_path / "store")])
    assert json.loads(told.stdout)["prompts"] == "store:safety/mine.toml"
    file.write_text("version = 1")
    assert CliRunner().invoke(app, ["safety", "add", str(file), "--store", str(tmp_path / "store")]).exit_code == 1
