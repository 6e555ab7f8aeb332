"""The whole way on the demo's data: label through the page's HTTP API, train, calibrate, tag a release, count.

The pictures are the demo's, embedded with the demo's CLIP; purple stands for unsafe content. The annotator is a script
that knows what was planted.
"""

import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset.formats.embeddings import PairEmbeddings, write_embeddings
from dataset.formats.parts import PRIVATE_COLUMNS
from dataset.formats.releases import FileKind, Release, open_release
from dataset.formats.side_tables import read_side_tables
from dataset.index.jobs import build
from dataset.index.plan import IndexOptions, work_on_release
from dataset.main import app
from dataset.models.clip import ClipModel, load_model
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.recipe.recipe import ModelRecipe
from dataset.release_embeddings.consolidate import Request, consolidate
from dataset.store.store import Store
from tests.dataset.label.served import ask
from tests.dataset.label.test_command import labelling
from tests.dataset.tags.head_layouts import nsfw
from tests.demo.marks import PLANTED
from tests.demo.pictures import Colour, caption, random_scene, render
from tests.manifests import put_manifest
from tests.parts import MadeStore, make_pair

DEMO = Path(__file__).parents[2] / "demo" / "clip"
NAME = "demo"
PICTURES, PART, DIMENSIONS = 180, 60, 128
PURPLE_EVERY = 4
TASK = """
name = "purple"
guideline_version = "1"
guideline = "Whether the figures are purple."
random_validation = 0.4

[[classes]]
name = "purple"
examples = [{examples}]

[[classes]]
name = "other"

[draws.prompts]
per_prompt = 40

[draws.uniform]
count = 90
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of the demo's pictures, which are kept, with embeddings of the demo's CLIP and an index."""
    made = MadeStore(Store.open(str(tmp_path_factory.mktemp("way") / "store")))
    model = load_model(ModelRecipe(NAME, str(DEMO), 0.28), device="cpu")
    rng = np.random.default_rng(3)
    pictures, pairs = [], []
    for number in range(PICTURES):
        scene = random_scene(rng)
        while (scene.colour is PLANTED) is not (number % PURPLE_EVERY == 0):
            scene = random_scene(rng)
        data = io.BytesIO()
        render(scene, (64, 64), rng).save(data, "JPEG", quality=90)
        pictures.append(data.getvalue())
        url = f"https://example.com/{scene.colour.value}-{number:05d}.jpg"
        pairs.append(make_pair(number, URL=url, TEXT=caption(scene, "en"), punsafe=0.0, WIDTH=64, HEIGHT=64))
    parts = made.put_run("crawl", [pairs[at : at + PART] for at in range(0, PICTURES, PART)])
    embedded = embeddings_of(model, pictures, [str(pair["TEXT"]) for pair in pairs])
    shards = []
    for at, path in enumerate(parts):
        rows = made.store.read_table(path)
        mine = slice(at * PART, (at + 1) * PART)
        about = rows.drop_columns([*PRIVATE_COLUMNS]).replace_schema_metadata(None)
        write_embeddings(made.store, path.removesuffix(".parquet"), embedded[mine], about, model.metadata)
        put_tar(made.store, rows["shard"][0].as_py(), dict(zip(rows["key"].to_pylist(), pictures[mine], strict=True)))
        shards.append(
            {"kind": "shard", "run": "crawl", "path": rows["shard"][0].as_py(), "job": at + 1, "tar_bytes": 1}
        )
    put_manifest(made.store, [*shards, *({**part, "job": 100 + at} for at, part in enumerate(made.listed))])
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", "crawl")], rows_per_file=100))
    opened = open_release(made.store, "laion")
    consolidate(opened, Request(model=NAME, batch=opened.record.batches[0].name))
    build(partial(work_on_release, opened, IndexOptions(model=NAME, kind="flat", held_out=8)))
    return opened


def embeddings_of(model: ClipModel, pictures: list[bytes], captions: list[str]) -> list[PairEmbeddings]:
    wanted = model.preparation
    decoded = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures)
    pixels = np.stack([np.frombuffer(wanted(picture), np.uint8) for picture in decoded])
    pixels = pixels.reshape(len(pictures), wanted.height, wanted.width, 3)
    images, texts = model.embed_pixels(pixels), model.embed_texts(captions)
    return [PairEmbeddings(*(row.astype(np.float16) for row in pair)) for pair in zip(images, texts, strict=True)]


def put_tar(store: Store, path: str, pictures: dict[str, bytes]) -> None:
    with store.write(f"{path}.tar") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, data in pictures.items():
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def rows_of(release: Release) -> dict[int, dict[str, Any]]:
    files = [release.store.read_table(release.path(file.path)) for file in release.files(FileKind.DATA)]
    return {row["id"]: row for row in pa.concat_tables(files).to_pylist()}


def run(*words: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else result.stdout


def test_from_labels_to_the_statistics_of_a_tagged_release(release: Release, tmp_path: Path) -> None:
    store = ("--store", release.store.uri)
    purple = {one for one, row in rows_of(release).items() if f"/{Colour.PURPLE.value}-" in row["URL"]}
    task, labels = tmp_path / "purple.toml", tmp_path / "labels.parquet"
    task.write_text(TASK.format(examples=", ".join(map(str, sorted(purple)[:2]))), encoding="utf-8")
    with labelling(task, release.store.uri) as (url, _):
        state = ask(f"{url}/api/state?annotator=ada")
        while state["shown"] is not None:
            item = state["shown"]["item"]
            body = {
                "annotator": "ada",
                "action": "label",
                "item": item,
                "label": "purple" if item in purple else "other",
            }
            state = ask(f"{url}/api/answer", body)
    run("label", task, "laion", *store, "--export", labels)

    head, model = tmp_path / "purple.safetensors", find_model(release)
    trained = run(
        "train-head", "--embeddings", tmp_path / "labels.npy", "--labels", labels, "--positive", "purple", "--json",
        "--tag", "punsafe", "--model", NAME, "--model-sha256", model["sha256"],
        "--model-config-sha256", model["config_sha256"], "--hidden", "", "--out", head,
    )  # fmt: skip
    assert trained["accuracy"] > 0.9
    chosen = run("calibrate", labels, "--labelled", "--positive", "purple", "--json")
    assert chosen["set"] == f"models.en.threshold={chosen['threshold']:g}"

    run("heads", "add", "purple", "--weights", head, *store)
    said = run("tag", "laion", "--head", "purple", *store, "--json")["heads"]["punsafe"]
    assert (said["rows"], said["left_out"], said["reads"]) == (PICTURES, {}, NAME)
    assert release.store.read(release.path(said["card"])) == head.with_suffix(".md").read_bytes()
    figures = run("stats", "laion", *store, "--json", "--no-save")["all"]
    assert abs(figures["unsafe"]["rows"] - len(purple)) <= PICTURES // 20
    (report,) = run("tags", "report", "laion", *store, "--tag", "punsafe", "--labels", labels, "--positive", "purple",
                    "--json", "--out", tmp_path / "tags.html")["tags"]  # fmt: skip
    half = next(one for one in report["thresholds"] if one["threshold"] == 0.5)
    assert report["prevalence"]["low"] < 1 / PURPLE_EVERY < report["prevalence"]["high"]
    assert half["precision"]["high"] > 0.9
    assert half["recall"]["high"] > 0.9
    assert (tmp_path / "tags.html").read_text(encoding="utf-8").count("data:image/jpeg") > 20


def find_model(release: Release) -> dict[str, str]:
    record = release.store.read(release.path(f"embeddings/{NAME}/{release.record.batches[0].name}/index.json"))
    found: dict[str, str] = json.loads(record)["model"]
    return found


def test_a_head_in_laions_layout_tags_a_release(release: Release, tmp_path: Path) -> None:
    store = ("--store", release.store.uri)
    np.savez(tmp_path / "nsfw.npz", **nsfw((DIMENSIONS, 32, 32, 1), np.random.default_rng(1)))  # type: ignore[arg-type]
    run("heads", "add", "nsfw", "--weights", tmp_path / "nsfw.npz", "--model", NAME, *store)
    said = run("tag", "laion", "--head", "nsfw", "--restart", *store, "--json")["heads"]["punsafe"]
    assert said["rows"] == PICTURES
    run("tags", "export", "laion", *store, "--columns", "tags.punsafe", "--out", tmp_path / "safety")
    joined = run("tags", "join", "laion", tmp_path / "safety", "--as", "safety", *store, "--json")
    assert joined == {"table": "safety", "columns": {"punsafe": "float"}, "rows": PICTURES, "left_out": {}}
    tables = read_side_tables(release)
    first, second = (release.store.read_table(release.path(tables[name].files[0].path)) for name in ("tags", "safety"))
    assert first["punsafe"].equals(second["punsafe"])
