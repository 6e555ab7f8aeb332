"""The filter of one shard: which samples are kept, what is written, and that a bad sample does not affect others."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset.filter.shard import FilterReport, filter_shard
from dataset.formats.parts import PART_SCHEMA, SCORES_SCHEMA, Verdict, pair_hash, part_schema
from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import ShardError
from dataset.models.clip import ClipModel, load_model
from dataset.pictures.fingerprints import fingerprint
from dataset.pictures.open_stored import open_stored
from dataset.pictures.outcomes import Outcome
from dataset.pictures.pdq import pdq_of
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules
from dataset.recipe.recipe import ModelRecipe, Recipe, RecipeMismatchError, settle
from dataset.safety.hash_lists import HashLists
from dataset.safety.removal import read_removed
from dataset.store.store import Store
from tests.demo.pictures import caption, mismatched_scene, random_scene, render

DEMO = Path(__file__).parents[2] / "demo" / "clip"
SHARD, OUTPUT = "shards/7-lease", "parts/9-lease"


@pytest.fixture(scope="module")
def models() -> dict[str, ClipModel]:
    model = load_model(ModelRecipe("demo", str(DEMO), 0.28), device="cpu")
    return {"en": model, "other": model}


@pytest.fixture
def recipe() -> Recipe:
    model = {"model": "demo", "pretrained": "store:models/demo"}
    return Recipe.from_json({"models": {"en": model, "other": model}, "safety": {"prompts": None}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def link(position: int, text: str, picture: Picture | None, language: str | None = "en") -> LinkRow:
    return LinkRow(
        position=position,
        pack=3,
        pack_row=position + 100,
        attempt=1,
        final=True,
        language=language,
        url=f"http://a.example/{position}.jpg",
        caption=text,
        outcome=Outcome.NOT_FOUND if picture is None else Outcome.SUCCESS,
        picture=picture,
    )


def downloaded(image: Image.Image) -> Picture:
    """Return a picture as a download stores it."""
    sent = io.BytesIO()
    image.save(sent, "JPEG", quality=90)
    picture = prepare(sent.getvalue(), ImageRules())
    assert isinstance(picture, Picture)
    return picture


def damaged(picture: Picture) -> Picture:
    noise = b"\xff\xd8\xff\xe0" + b"no picture at all " * 300
    return Picture(noise, "jpg", picture.width, picture.height, 600, 400, picture.sha256, picture.md5)


def write_shard(
    store: Store, rows: Sequence[LinkRow], subset: str = "en", extra: Mapping[str, str] | None = None
) -> None:
    with ShardWriter(store, SHARD, job_id=7, subset=subset, extra=extra) as writer:
        for row in rows:
            writer.add(row)
        writer.publish()


def planted(count: int, language: str = "en") -> list[LinkRow]:
    """Plant `count` matched pairs at even positions and as many mismatched at odd ones."""
    rng = np.random.default_rng(5)
    rows = []
    for position in range(2 * count):
        scene = random_scene(rng)
        said = scene if position % 2 == 0 else mismatched_scene(scene, rng)
        rows.append(link(position, caption(said, language), downloaded(render(scene, (600, 400), rng)), language))
    return rows


def filtered(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> tuple[FilterReport, pa.Table, pa.Table]:
    report = filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    return report, store.read_table(f"{OUTPUT}.parquet"), store.read_table(f"{OUTPUT}.scores.parquet")


@pytest.mark.parametrize(("subset", "language"), [("en", "en"), ("multi", "de"), ("multi", "es")])
def test_matched_pairs_are_kept_and_mismatched_are_dropped(
    store: Store, models: dict[str, ClipModel], recipe: Recipe, subset: str, language: str
) -> None:
    write_shard(store, planted(30, language), subset)
    report, part, scores = filtered(store, models, recipe)
    kept = {int(key[-5:]) for key in part["key"].to_pylist()}
    assert len([position for position in kept if position % 2 == 0]) >= 29
    assert len([position for position in kept if position % 2 == 1]) <= 1
    assert report.samples == scores.num_rows == 60
    assert report.kept == part.num_rows
    assert report.dropped == {Verdict.BELOW_THRESHOLD: 60 - part.num_rows}


def test_a_part_has_laions_columns_by_name_and_type(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> None:
    rows = planted(2)
    write_shard(store, rows)
    _, part, scores = filtered(store, models, recipe)
    assert part.schema.equals(PART_SCHEMA)
    assert scores.schema.equals(SCORES_SCHEMA)
    assert {str(part.schema.field(name).type) for name in ("similarity", "pwatermark", "punsafe")} == {"double"}
    first = part.to_pylist()[0]
    assert (first["WIDTH"], first["HEIGHT"]) == (600, 400)
    assert (first["URL"], first["TEXT"], first["LANGUAGE"]) == (rows[0].url, rows[0].caption, "en")
    assert (first["pwatermark"], first["punsafe"]) == (None, None)
    assert (first["pack"], first["pack_row"], first["shard"]) == (3, 100, SHARD)
    assert first["hash"] == mmh3.hash64(first["URL"] + first["TEXT"])[0]
    assert first["hash"] in scores["hash"].to_pylist()


def test_a_part_carries_what_its_shard_knows_of_picture_and_link(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    types = {"uid": "string", "width": "uint16", "similarity": "float"}
    said = json.dumps({"uid": "é", "width": 65_535, "similarity": 0.5})
    rows = planted(2)
    rows[0] = replace(rows[0], extra=said, final_url="https://CDN.example:8443/0.jpg")
    write_shard(store, rows, "multi", types)
    fetched = datetime(2026, 11, 26, 18, 0, 1, tzinfo=UTC)
    listed = Recipe.from_json(recipe.to_json() | {"extra": types})
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=listed, fetched=fetched)
    part = store.read_table(f"{OUTPUT}.parquet")
    assert part.schema.equals(part_schema(types))
    first, second = part.to_pylist()[:2]
    picture = rows[0].picture
    assert picture is not None
    assert (first["sha256"], first["md5"], first["sha1"]) == (picture.sha256, picture.md5, picture.sha1)
    assert (first["subset"], first["final_host"], first["fetched"]) == ("multi", "cdn.example", fetched)
    assert (first["uid"], first["list_width"], first["list_similarity"]) == ("é", 65_535, 0.5)
    assert (second["final_host"], second["uid"], second["list_width"]) == ("a.example", None, None)


def test_kept_pictures_are_fingerprinted_and_a_pdq_that_the_shard_has_stays(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    rows = planted(3)
    assert rows[2].picture is not None
    rows[2] = replace(rows[2], picture=replace(rows[2].picture, pdq="0f" * 32))
    write_shard(store, rows)
    _, part, _ = filtered(store, models, recipe)
    kept = {row["pack_row"] - 100: row for row in part.to_pylist()}
    for position, row in kept.items():
        picture = rows[position].picture
        assert picture is not None
        expected = fingerprint(np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB")))
        assert row["dhash"] == expected.dhash
        assert row["pdq"] == (b"\x0f" * 32 if position == 2 else expected.pdq)
    assert {0, 2} <= kept.keys()


def test_the_hash_is_the_first_half_of_murmur3_as_published() -> None:
    assert pair_hash("he", "llo") == int.from_bytes(bytes.fromhex("029bbd41b3a7d8cb"), "little", signed=True)


def test_a_pair_at_the_threshold_is_kept(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> None:
    write_shard(store, planted(1))
    filtered(store, models, recipe)
    exactly = max(store.read_table(f"{OUTPUT}.scores.parquet")["similarity"].to_pylist())
    written = recipe.to_json()
    written["models"]["en"]["threshold"] = exactly
    report, _, _ = filtered(store, models, Recipe.from_json(written))
    assert report.kept == 1


def test_a_sample_that_cannot_be_decoded_costs_only_itself(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    rows = planted(2)
    picture = rows[0].picture
    assert picture is not None
    rows += [link(4, "a damaged picture", damaged(picture)), link(5, "never arrived", None)]
    rows += [link(6, "🦈" * 50, picture), link(7, "z" * 10_000, picture)]
    write_shard(store, rows)
    report, _, scores = filtered(store, models, recipe)
    verdicts = {row["key"][-5:]: row for row in scores.to_pylist()}
    assert report.samples == 7
    assert report.dropped[Verdict.UNDECODABLE] == 1
    assert verdicts["00004"]["similarity"] is None
    assert "00005" not in verdicts
    assert {verdicts["00006"]["reason"], verdicts["00007"]["reason"]} == {"below_threshold"}


def test_a_tar_that_breaks_off_loses_what_it_lost_and_no_more(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    write_shard(store, planted(3))
    tar = store.read(f"{SHARD}.tar")
    store.put(f"{SHARD}.tar", tar[: len(tar) // 2])
    report, _, scores = filtered(store, models, recipe)
    assert report.samples == scores.num_rows == 6
    assert 0 < report.dropped[Verdict.UNREADABLE] < 6
    assert Verdict.UNDECODABLE not in report.dropped


def test_a_shard_without_a_sample_makes_an_empty_part(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    write_shard(store, [link(0, "never arrived", None)])
    report, part, scores = filtered(store, models, recipe)
    assert report == FilterReport(samples=0, kept=0, dropped={})
    assert (part.num_rows, scores.num_rows) == (0, 0)


def test_a_shard_that_is_not_there_leaves_nothing(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> None:
    with pytest.raises(ShardError):
        filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    assert store.list("parts") == []


def test_the_same_shard_gives_the_same_part_bit_for_bit(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    write_shard(store, planted(20))
    for output in ("parts/first", "parts/second"):
        filter_shard(store, SHARD, output, models=models, recipe=recipe)
    for suffix in (".parquet", ".scores.parquet"):
        assert store.read(f"parts/first{suffix}") == store.read(f"parts/second{suffix}")


def test_a_part_says_how_it_was_made(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> None:
    recipe = settle(recipe, {role: model.checksums for role, model in models.items()})
    write_shard(store, planted(1))
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe)
    with store.open_input(f"{OUTPUT}.parquet") as file:
        metadata = pq.read_schema(file).metadata
    told = json.loads(metadata[b"shoal.models"])
    assert metadata[b"shoal.recipe"].decode() == recipe.digest()
    assert told["en"]["sha256"] == models["en"].sha256
    assert (told["en"]["threshold"], told["other"]["threshold"]) == (0.28, 0.26)
    assert metadata[b"shoal.version"]


def test_a_model_that_is_not_the_crawls_scores_nothing(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    written = recipe.to_json()
    written["models"]["other"]["sha256"] = "0" * 64
    write_shard(store, planted(1))
    with pytest.raises(RecipeMismatchError):
        filter_shard(store, SHARD, OUTPUT, models=models, recipe=Recipe.from_json(written))
    assert store.list("parts") == []


def test_progress_is_counted_in_samples(store: Store, models: dict[str, ClipModel], recipe: Recipe) -> None:
    write_shard(store, planted(2))
    told: list[int] = []
    filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe, on_progress=told.append)
    assert sum(told) == 4


def test_a_hash_that_the_shard_lacks_is_computed_and_pictures_without_one_are_not_scored(
    store: Store, models: dict[str, ClipModel], recipe: Recipe
) -> None:
    rows = planted(20)
    picture = rows[5].picture
    assert picture is not None
    shown = open_stored(picture.data)
    assert shown is not None
    listed = pdq_of(np.asarray(shown))
    assert listed is not None
    rows.append(link(40, "a damaged picture", damaged(picture)))
    write_shard(store, rows)
    numbers = np.frombuffer(bytes.fromhex(listed), ">u8").astype(np.uint64).reshape(4, 1)
    known = HashLists(pdq=(numbers,))
    report = filter_shard(store, SHARD, OUTPUT, models=models, recipe=recipe, hash_lists=known)
    removed = read_removed(store, SHARD)
    assert removed[f"{7:010d}{5:05d}"] is Verdict.RESTRICTED
    assert report.dropped[Verdict.RESTRICTED] == len(removed)
    assert report.dropped[Verdict.UNDECODABLE] == 1
    assert report.samples == 41
