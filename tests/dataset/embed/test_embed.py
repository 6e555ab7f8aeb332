"""A second model embeds existing samples: the kept samples of parts, and tars of any origin."""

import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dataset.embed.embed import EmbedReport, embed, embed_all
from dataset.embed.sources import source_of_shard, source_of_tar, sources_of_folder, sources_of_parts
from dataset.filter.shard import filter_shard
from dataset.formats.embeddings import METADATA, EmbeddingsError, read_embeddings
from dataset.formats.parts import Verdict
from dataset.formats.release_embeddings import model_folder_name
from dataset.main import app
from dataset.models.clip import ClipModel, load_model
from dataset.models.pipeline import Pipeline
from dataset.recipe.recipe import ModelRecipe, Recipe
from dataset.store.store import Store
from tests.dataset.filter.test_shard import DEMO, OUTPUT, SHARD, planted, write_shard
from tests.manifests import put_manifest


class Stopped(Exception):
    pass


Members = Mapping[str, bytes]


@pytest.fixture(scope="module")
def model() -> ClipModel:
    return load_model(ModelRecipe("demo", str(DEMO), 0.0), device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "target"))


def write_tar(store: Store, path: str, members: Members) -> None:
    with store.write(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def pictures(count: int) -> list[bytes]:
    return [row.picture.data for row in planted(count) if row.picture is not None]


def embedded(store: Store, model: ClipModel, target: Store) -> list[EmbedReport]:
    with Pipeline() as pipeline:
        return list(embed_all(sources_of_folder(store), model, pipeline, target, "m"))


def test_one_tar_that_cannot_be_read_spoils_no_other_and_what_is_done_is_not_done_again(
    store: Store, model: ClipModel, target: Store
) -> None:
    images = pictures(3)
    for name in ("a", "sub/b"):
        write_tar(store, f"{name}.tar", {f"{i}.jpg": image for i, image in enumerate(images)})
    others = {"._1.jpg": b"a Mac's", "README": b"of these"}
    samples = {"0.jpg": b"no picture", "1.jpg": images[0], "1.txt": b"a caption", "2.txt": b"no picture"}
    write_tar(store, "c.tar", samples | others)
    store.put("broken.tar", b"no tar" * 1_000)
    first = {one.name: one for one in embedded(store, model, target)}
    assert {name: (one.embedded, one.lost, one.other_members) for name, one in first.items() if not one.error} == {
        "a": (6, {}, 0),
        "sub/b": (6, {}, 0),
        "c": (1, {Verdict.UNDECODABLE: 1, Verdict.UNREADABLE: 1}, 2),
    }
    assert "broken.tar" in str(first["broken"].error)
    assert [one.skipped for one in embedded(store, model, target)] == [True, False, True, True]
    _, _, about = read_embeddings(target, "m/c")
    assert about.select(["image_path", "caption"]).to_pylist() == [{"image_path": "1", "caption": "a caption"}]


def test_what_was_left_unfinished_is_embedded_again(store: Store, model: ClipModel, target: Store) -> None:
    write_tar(store, "a.tar", {"0.jpg": pictures(1)[0]})
    embedded(store, model, target)
    target.delete(f"m/a.embeddings/{METADATA}")
    assert [one.embedded for one in embedded(store, model, target)] == [1]


@pytest.mark.parametrize("changed", ["weights", "config"])
def test_two_models_never_share_a_folder(store: Store, model: ClipModel, target: Store, changed: str) -> None:
    write_tar(store, "a.tar", {"0.jpg": pictures(1)[0]})
    embedded(store, model, target)
    other = replace(model, checksums=replace(model.checksums, **{changed: "0" * 64}))
    (one,) = embedded(store, other, target)
    assert "another model of the same name" in str(one.error)


def test_a_folder_without_a_tar_is_refused(store: Store, model: ClipModel, target: Store) -> None:
    with pytest.raises(EmbeddingsError, match="holds no tar"):
        embedded(store, model, target)


@pytest.mark.parametrize(
    ("model", "folder"), [("ViT-L-14", "ViT-L-14"), ("hf-hub:laion/x y", "laion-x-y"), ("../..", "model")]
)
def test_a_models_name_makes_one_folder(model: str, folder: str) -> None:
    assert model_folder_name(model) == folder


# --- the kept samples of a run


def test_the_second_model_sees_the_kept_samples_and_no_others(store: Store, model: ClipModel, target: Store) -> None:
    spec = {"model": "demo", "pretrained": "store:models/demo"}
    write_shard(store, planted(10))
    filter_shard(
        store,
        SHARD,
        OUTPUT,
        models={"en": model, "other": model},
        recipe=Recipe.from_json({"models": {"en": spec, "other": spec}}),
    )
    part = store.read_table(f"{OUTPUT}.parquet")
    assert 0 < part.num_rows < 20
    with Pipeline() as pipeline:
        (one,) = embed_all(sources_of_parts(store, [OUTPUT]), model, pipeline, target, "m")
    images, texts, about = read_embeddings(target, f"m/{OUTPUT}")
    assert one.embedded == part.num_rows
    assert about["image_path"].to_pylist() == part["key"].to_pylist()
    cosines = (images.astype(np.float64) * texts.astype(np.float64)).sum(1)
    assert np.allclose(cosines, part["similarity"].to_pylist(), atol=5e-4)


def test_what_a_truncated_tar_has_lost_is_not_called_undecodable(store: Store, model: ClipModel, target: Store) -> None:
    write_shard(store, planted(3))
    whole = store.read(f"{SHARD}.tar")
    store.put(f"{SHARD}.tar", whole[: len(whole) // 2])
    with Pipeline() as pipeline:
        one = embed(source_of_shard(store, SHARD), model, pipeline, target, "m/shard")
    assert one.embedded > 0
    assert one.lost == {Verdict.UNREADABLE: 6 - one.embedded}


def test_a_stop_is_noticed_during_the_first_batch(store: Store, model: ClipModel, target: Store) -> None:
    write_tar(store, "a.tar", {"0.jpg": pictures(1)[0]})
    stopped = threading.Event()

    @contextmanager
    def until_stopped() -> Iterator[None]:
        stopped.wait()
        yield

    def stop(done: int) -> None:
        stopped.set()
        raise Stopped(f"asked to stop after {done} samples")

    with Pipeline(busy=until_stopped) as pipeline, pytest.raises(Stopped, match="after 0 samples"):
        embed(source_of_tar(store, "a.tar"), model, pipeline, target, "m/a", on_progress=stop)
    assert target.list() == []


def test_the_command_embeds_what_the_manifest_lists(store: Store, model: ClipModel, target: Store) -> None:
    spec = {"model": "demo", "pretrained": "store:models/demo"}
    write_shard(store, planted(2))
    recipe = Recipe.from_json({"models": {"en": spec, "other": spec}})
    for path in (OUTPUT, "parts/late"):
        filter_shard(store, SHARD, path, models={"en": model, "other": model}, recipe=recipe)
    listed = [{"kind": "part", "run": "r", "path": OUTPUT}, {"kind": "shard", "run": "r", "path": SHARD}]
    put_manifest(store, [*listed, {**listed[0], "run": "other"}])
    arguments = ["embed", "--target", target.uri, "--store", store.uri, "--run", "r", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--model", "demo", "--pretrained", str(DEMO)])
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == [OUTPUT]
    assert target.list() and all(path.startswith(f"demo/{OUTPUT}.embeddings/") for path in target.list())  # noqa: PT018
