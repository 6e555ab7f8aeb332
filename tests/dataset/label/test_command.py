"""`dataset label` on a release whose pictures are kept: label through the page's API, then export, train, calibrate."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset.formats.label_files import Split, read_label_file, splits
from dataset.formats.releases import FileKind, Release
from dataset.formats.takedowns import Entry
from dataset.main import app
from dataset.takedown.requests import file_request, list_requests
from tests.dataset.label.served import ask, jpeg
from tests.takedowns import make_crawl, make_release, put_tar, sample

TASK = """
name = "bright"
guideline_version = "1"
guideline = "Whether the picture is bright."
validation = 0.15
random_validation = 0.4

[[classes]]
name = "bright"
examples = [0, 40]

[[classes]]
name = "dark"

[draws.prompts]
per_prompt = 50

[draws.uniform]
count = 50
"""
SHARDS = 6


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("labelled")
    store = make_crawl(folder, SHARDS)
    picture = jpeg("orange")
    for shard in range(SHARDS):
        rows = [sample(seed) for seed in range(shard * 20, (shard + 1) * 20)]
        put_tar(store, f"crawl/shards/{shard}.tar", rows, picture)
    return make_release(store, index="flat")


@contextmanager
def labelling(task: Path, store: str) -> Iterator[tuple[str, list[str]]]:
    """Run the command; yield the page's URL, and what the command prints on stdout, once it has ended."""
    command = [sys.executable, "-c", "from dataset.main import main; main()", "label", str(task), "laion"]
    command += ["--store", store, "--json"]
    printed: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while not (place := re.search(r"^http://\S+:\d+", said, re.MULTILINE)):
            line = process.stderr.readline()
            assert line, said
            said += line
        try:
            yield place[0], printed
        finally:
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=30)
            assert process.returncode == 0, error
            printed.append(out)


def run(*words: str) -> Any:
    result = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def release_rows(release: Release) -> Iterator[dict[str, Any]]:
    for file in release.files(FileKind.DATA):
        yield from release.store.read_table(release.path(file.path)).to_pylist()


def test_the_way_from_pictures_to_a_head_and_a_threshold(release: Release, tmp_path: Path) -> None:
    task = tmp_path / "bright.toml"
    task.write_text(TASK, encoding="utf-8")
    similarity = {row["id"]: row["similarity"] for row in release_rows(release)}
    middle = float(np.median([*similarity.values()]))
    run("label", str(task), "laion", "--store", release.store.uri, "--draw")
    denied = pq.read_table(tmp_path / "bright.labels" / "drawn.parquet")["id"][0].as_py()
    (row,) = (row for row in release_rows(release) if row["id"] == denied)
    file_request(release.store, [Entry(kind="sha256", value=row["sha256"])], "privacy")
    with labelling(task, release.store.uri) as (url, printed):
        state = ask(f"{url}/api/state?annotator=ada")
        first = state["shown"]["item"]
        assert first != denied
        assert ask(f"{url}/pictures/{denied}") == 404
        state = ask(f"{url}/api/answer", {"annotator": "ada", "action": "report", "item": first})
        while state["shown"] is not None:
            item = state["shown"]["item"]
            label = "bright" if similarity[item] > middle else "dark"
            body = {"annotator": "ada", "action": "label", "item": item, "label": label}
            state = ask(f"{url}/api/answer", body)
    said = json.loads(printed[0])
    assert (said["hidden"], said["labelled"]) == (1, said["pictures"] - 2)
    prevalence = said["prevalence"]["bright"]
    assert prevalence["low"] < 0.5 < prevalence["high"]
    assert [one.entries for one in list_requests(release.store, pending=True)] == [{"pair": 1, "sha256": 1}]

    labels = tmp_path / "labels.parquet"
    run("label", str(task), "laion", "--store", release.store.uri, "--export", str(labels))
    found = read_label_file(labels)
    assert not {first, denied} & {*found.rows["id"].to_pylist()}
    assert len(np.load(tmp_path / "labels.npy")) == len(found.rows) == said["labelled"]
    assert all(len(rows) for rows in splits(found).values())
    head = tmp_path / "bright.safetensors"
    words = ["train-head", "--embeddings", str(tmp_path / "labels.npy"), "--labels", str(labels), "--json"]
    words += ["--positive", "bright", "--tag", "punsafe", "--model", "ViT-L-14", "--out", str(head)]
    assert json.loads(run(*words))["rows"] == [len(rows) for rows in splits(found).values()]
    chosen = json.loads(run("calibrate", str(labels), "--labelled", "--positive", "bright", "--json"))
    assert chosen["precision"] == chosen["recall"] == 1
    validation = found.rows.take(splits(found)[Split.VALIDATION]).to_pylist()
    lowest = min(row["similarity"] for row in validation if row["prompt"] is None and row["label"] == "bright")
    assert chosen["threshold"] == pytest.approx(lowest, abs=1e-4)

    out = tmp_path / "classifier"
    words = ["train-classifier", "--labels", str(labels), "--store", release.store.uri, "--positive", "bright"]
    words += ["--tag", "punsafe", "--architecture", "test_byobnet", "--side", "32", "--epochs", "1", "--batch", "32"]
    trained = json.loads(run(*words, "--device", "cpu", "--out", str(out), "--json"))
    rows = found.rows.take(splits(found)[Split.TEST]).to_pylist()
    bright = sum(row["weight"] for row in rows if row["label"] == "bright")
    assert trained["test_rows"] == len(rows)
    assert trained["prevalence"]["share"] == pytest.approx(bright / sum(row["weight"] for row in rows))
    card = (out / "README.md").read_text(encoding="utf-8")
    for words_of_card in (
        "> Whether the picture is bright.",
        "the release laion 1.0.0",
        "0 labelled pictures are left out",
    ):
        assert words_of_card in card
