"""`tracker index`, `dedup` and `tag`: plans from a release's records, and the messages about a build."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tracker.filling import scalar
from tests.tracker.talking import Console
from tracker.database.database import Connection
from tracker.protocol.session import Session

IMAGES = "releases/r1 clip/image"
DONE = {"rows_in": 1, "rows_out": 1, "files": []}
Register = Callable[[str], Session]


class Release:
    """The records of a release in a store: batches with data files and embeddings of so many rows each."""

    def __init__(self, store: Path, **batches: list[int]) -> None:
        self.store = store
        files: list[dict[str, Any]] = []
        last = -1
        for batch, counts in batches.items():
            for rows in counts:
                first, last = last + 1, last + rows
                files.append({"kind": "data", "batch": batch, "rows": rows, "first_id": first, "last_id": last})
            pictures = [{"path": f"img_emb/img_emb_{at:05d}.npy", "rows": rows} for at, rows in enumerate(counts)]
            others = [{"path": f"text_emb/text_emb_{at:05d}.npy", "rows": rows} for at, rows in enumerate(counts)]
            self.put(
                f"releases/r1/embeddings/clip/{batch}/index.json", {"rows": sum(counts), "files": others + pictures}
            )
        record = {"version": f"1.{len(batches) - 1}.0", "batches": [{"name": name} for name in batches], "files": files}
        self.put("releases/r1/release.json", record)

    def put(self, path: str, value: object) -> None:
        file = self.store / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def console(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path))
    return Console(database, monkeypatch, capsys)


def test_an_index_is_begun_once_and_says_how_far_it_is(
    admin: Connection, console: Console, register: Register, tmp_path: Path
) -> None:
    Release(tmp_path, a=[600_000, 10])
    said = console("index", "r1", "--model", "clip")
    steps = "train 1, add 4, describe 3, merge 2, finish 1"
    assert said.err == f"{IMAGES}: 11 units ({steps}); start `worker index`\n"
    worker = register("index")
    worker.complete(worker.claim()[0], DONE)
    assert (
        console("index", "r1", "--model", "clip").err
        == "releases/r1 clip/image: at step add, with 4 units of it left\n"
    )
    (entry,) = console.json("log")["changes"]
    assert (entry["command"], entry["subject"]) == ("index", "releases/r1 clip/image")
    for job in worker.claim(4):
        worker.complete(job, DONE)
    while jobs := worker.claim(9):
        for job in jobs:
            worker.complete(job, DONE)
    assert console("index", "r1", "--model", "clip").err == f"{IMAGES}: is built; --restart builds it again\n"
    assert console.json("index", "r1", "--model", "clip", "--restart")["builds"][0]["is_new"]


def test_both_modalities_are_two_builds(admin: Connection, console: Console, tmp_path: Path) -> None:
    Release(tmp_path, a=[100])
    found = console.json("index", "r1", "--model", "clip", "--modality", "both", "--kind", "flat", "--lists", 7)
    assert [build["target"] for build in found["builds"]] == ["clip/image", "clip/text"]
    assert found["builds"][0]["plan"] == [["train", 1], ["add", 1], ["describe", 1], ["merge", 1], ["finish", 1]]
    assert scalar(admin, "SELECT options ->> 'modality' FROM tracker.build WHERE target = 'clip/text'") == "text"


def test_a_later_batch_is_added_as_a_segment(console: Console, tmp_path: Path) -> None:
    release = Release(tmp_path, a=[100], b=[300_000, 0])
    sentence = console.refusal("index", "r1", "--model", "clip", "--add")
    assert sentence == "tracker: releases/r1 has no image index of clip: build one first"
    release.put("releases/r1/index/clip/image/index.json", {"lists": 1024, "segments": [{"batches": ["a"]}]})
    (build,) = console.json("index", "r1", "--model", "clip", "--add")["builds"]
    assert build["plan"] == [["train", 1], ["add", 2], ["describe", 1], ["merge", 1], ["finish", 1]]
    release.put("releases/r1/index/clip/image/index.json", {"lists": 1024, "segments": [{"batches": ["a", "b"]}]})
    assert "there is nothing to add" in console.refusal("index", "r1", "--model", "clip", "--add")


def test_a_search_for_duplicates_takes_up_only_new_batches(
    admin: Connection, console: Console, register: Register, tmp_path: Path
) -> None:
    release = Release(tmp_path, a=[1_000, 24], b=[10])
    (build,) = console.json("dedup", "r1", "--model", "clip")["builds"]
    rounds = [[f"{name}-{at}", 1] for at in range(5) for name in ("new", "merge", "rest", "sweep")]
    assert build["plan"] == [
        ["ids", 3], ["quality", 3], ["train", 1], ["layout", 3], ["gather-0", 1], ["gather-1", 1], *rounds,
        ["count", 1], ["verify", 1], ["result", 1], ["texts", 3], ["write", 3], ["finish", 1], ["clean", 1],
    ]  # fmt: skip
    worker = register("dedup")
    while jobs := worker.claim(9):
        for job in jobs:
            worker.complete(job, DONE)
    assert console("dedup", "r1", "--model", "clip").err == "releases/r1 clip: is built; --restart builds it again\n"
    state = {"batches": [{}, {}], "super_cells": 1, "at": 0.94, "careful": False, "with_pdq": False,
             "pdq_from": 0.9, "quality": ["safe", "watermark", "size", "similarity", "pixels", "hash"]}  # fmt: skip
    release = Release(tmp_path, a=[1_000, 24], b=[10], c=[20])
    release.put("dedup/r1/v1/clip/state.json", state)
    (build,) = console.json("dedup", "r1", "--model", "clip")["builds"]
    assert [step for step, _ in build["plan"]][:9] == [
        "ids", "quality", "train", "layout", "gather-2", "new-5", "merge-5", "rest-5", "sweep-5"
    ]  # fmt: skip


def test_a_restarted_search_forgets_what_was_searched(console: Console, tmp_path: Path) -> None:
    release = Release(tmp_path, a=[1_000])
    state = {
        "batches": [{}],
        "super_cells": 1,
        "at": 0.9,
        "careful": True,
        "with_pdq": False,
        "pdq_from": 0.9,
        "quality": ["hash"],
    }
    release.put("dedup/r1/v1/clip/state.json", state)
    assert "was searched with at 0.9, careful True" in console.refusal("dedup", "r1", "--model", "clip")
    (build,) = console.json("dedup", "r1", "--model", "clip", "--restart")["builds"]
    assert ["gather-0", 1] in build["plan"]
    assert not (tmp_path / "dedup/r1/v1/clip/state.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("r2", "--model", "clip"), "has no releases/r2/release.json: publish the release"),
        (("r1", "--model", "other"), "releases/r1 has no embeddings of other: write them with dataset embeddings"),
        (("r1", "--model", "../x"), "'../x' cannot be a folder of embeddings"),
        (("../r1", "--model", "clip"), "cannot be a release's name"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    console: Console, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    Release(tmp_path, a=[100])
    for command in ("index", "dedup"):
        assert said in console.refusal(command, *arguments)


def test_damaged_records_are_one_sentence(console: Console, tmp_path: Path) -> None:
    release = Release(tmp_path, a=[100])
    release.put("releases/r1/embeddings/clip/a/index.json", {"rows": 1})
    assert "lacks 'files'" in console.refusal("index", "r1", "--model", "clip")
    release.put("releases/r1/embeddings/clip/a/index.json", [])
    assert "is not a JSON object" in console.refusal("index", "r1", "--model", "clip")
    release.put("releases/r1/release.json", {"version": "1.0.0"})
    assert "lacks the list batches" in console.refusal("dedup", "r1", "--model", "clip")


def put_head(store: Path, name: str, tag: str = "punsafe", kind: str = "embedding") -> None:
    """Write a head's file without tensors."""
    said = json.dumps({"format": 1, "tag": tag, "kind": kind})
    (store / "heads").mkdir(exist_ok=True)
    header = json.dumps({"__metadata__": {"shoal.head": said}}).encode()
    (store / "heads" / f"{name}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def test_a_release_is_tagged_in_units_of_embeddings_and_of_pictures(console: Console, tmp_path: Path) -> None:
    Release(tmp_path, a=[600_000, 10], b=[300_000])
    put_head(tmp_path, "unsafe")
    put_head(tmp_path, "mark", "pwatermark", "picture")
    (build,) = console.json("tag", "r1", "--head", "unsafe", "--model", "clip")["builds"]
    assert build["plan"] == [["plan", 1], ["score", 6], ["write", 3], ["finish", 1], ["clean", 1]]
    both = ("--head", "unsafe", "--head", "store:heads/mark.safetensors", "--model", "clip")
    assert "another tag build of releases/r1 is at step plan" in console.refusal("tag", "r1", *both)
    (build,) = console.json("tag", "r1", *both, "--restart")["builds"]
    assert build["plan"][1:5] == [["score", 6], ["locate", 3], ["tars", 1], ["pictures", 19]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--head", "nobody"), "has no head heads/nobody.safetensors: put it there with dataset heads add"),
        (("--head", "broken"), "is not a head: make it again, and add it under a new name"),
        (("--head", "newer"), "reads 'sound', which this version does not know"),
        (("--head", "unsafe", "--head", "again"), "both compute punsafe: give one for each tag"),
        (("--head", "unsafe"), "a head reads embeddings: name their folder below embeddings/ with --model"),
        (("--head", "mark", "--model", "clip"), "no head reads embeddings: leave --model out"),
        (("--head", "unsafe", "--model", "other"), "releases/r1 has no embeddings of other"),
    ],
)
def test_what_cannot_be_tagged_is_one_sentence(
    console: Console, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    Release(tmp_path, a=[100])
    for name, kind in (("unsafe", "embedding"), ("again", "embedding"), ("newer", "sound")):
        put_head(tmp_path, name, kind=kind)
    put_head(tmp_path, "mark", "pwatermark", "picture")
    (tmp_path / "heads" / "broken.safetensors").write_bytes(b"broken")
    assert said in console.refusal("tag", "r1", *arguments)
