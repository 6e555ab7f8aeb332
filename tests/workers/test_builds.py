"""Builds through the queue have the plans and the bytes of one machine."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dataset.dedup import jobs as dedup_jobs
from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.releases import README, Release, open_release
from dataset.formats.steps import plan_to_json
from dataset.index import jobs as index_jobs
from dataset.index import kinds
from dataset.index.plan import IndexOptions, work_on_release
from dataset.publish.record import refresh_card
from dataset.store.store import Store
from dataset.tagging.given_heads import find_heads
from dataset.tagging.run import tag as tag_alone
from tests.dataset.index.made import MEASURED, made_release, publish_batch
from tests.dataset.tagging.made import MODEL as TAGGED_MODEL
from tests.dataset.tagging.made import made_release as release_to_tag
from tests.parts import MadeStore
from tests.planted import MODEL, planted, put_release
from tests.tracker.filling import scalar
from tests.tracker.talking import Console
from tracker.database.database import Connection
from tracker.protocol.session import Session
from tracker.seeding import index_jobs as index_plans
from tracker.storage.manifest import outputs
from workers import dedup, index, tag
from workers.runtime.unit_stage import result_of

Register = Callable[[str], Session]


@pytest.fixture
def console(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path / "queue"))
    return Console(database, monkeypatch, capsys)


def release_in(folder: Path, *, batches: int = 1) -> Release:
    halves = planted(1_500, dimensions=32)
    cuts = [halves[:1_200], halves[1_200:]]
    return put_release(Store.open(str(folder)), "laion", cuts[:batches], rows_per_file=700)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def do_units(session: Session, store: Store, run_unit: Any, scratch: Path) -> Iterator[str]:
    """Do the units of a queue in this process, those of a step in any order and some twice; yield their steps."""
    chance = Random(1)
    while held := session.claim(100):
        chance.shuffle(held)
        for job in held:
            for _ in range(chance.choice((1, 1, 1, 2))):
                payload = job.payload
                done = run_unit(store, "laion", payload["options"], payload["step"], payload["number"], scratch=scratch)
            session.complete(job, result_of(job, asdict(done)))
            yield payload["step"]


def test_near_duplicates_are_found_as_on_one_machine(
    admin: Connection, console: Console, register: Register, tmp_path: Path
) -> None:
    alone, queued = release_in(tmp_path / "alone"), release_in(tmp_path / "queue")
    search(alone, Options(model=MODEL, at=0.9))
    refresh_card(alone)
    (build,) = console.json("dedup", "laion", "--model", MODEL, "--at", 0.9)["builds"]
    assert build["plan"] == plan_to_json(dedup_jobs.plan_steps(queued.store, "laion", Options(model=MODEL, at=0.9)))
    steps = list(do_units(register("dedup"), queued.store, dedup.run_unit, tmp_path))
    assert len(steps) == sum(units for _, units in build["plan"])
    assert scalar(admin, "SELECT finished_at IS NOT NULL FROM tracker.build")
    found = files_below(tmp_path / "queue")
    assert found == files_below(tmp_path / "alone")
    listed = {row["path"]: row["bytes"] for row in outputs(admin).to_pylist()}
    duplicates = {path: len(data) for path, data in found.items() if path.startswith("releases/laion/duplicates/")}
    assert {path: size for path, size in duplicates.items() if path in listed} == listed
    assert len(listed) == 3  # a file for each data file, and the report


def indexed(folder: Path) -> dict[str, bytes]:
    """Return the files of a release's indexes, but for the measured times."""
    found = files_below(folder / "releases" / "laion" / "index")
    return {path: data for path, data in found.items() if Path(path).name not in MEASURED}


def test_an_index_is_built_as_on_one_machine(
    admin: Connection, console: Console, register: Register, tmp_path: Path
) -> None:
    kind = "sq16"
    alone = made_release(tmp_path / "alone")
    shutil.copytree(tmp_path / "alone", tmp_path / "queue")
    queued = open_release(Store.open(str(tmp_path / "queue")), "laion")
    options = IndexOptions(model=MODEL, kind=kind)
    index_jobs.build(partial(work_on_release, alone, options))
    (build,) = console.json("index", "laion", "--model", MODEL, "--kind", kind)["builds"]
    assert build["plan"] == plan_to_json(index_jobs.plan_steps(queued.store, "laion", options))
    steps = list(do_units(register("index"), queued.store, index.run_unit, tmp_path))
    assert len(steps) == sum(units for _, units in build["plan"])
    found = indexed(tmp_path / "queue")
    assert len(found) > 10
    assert found == indexed(tmp_path / "alone")
    assert "\n## Search\n" in queued.store.read(queued.path(README)).decode()
    listed = {row["path"]: row["bytes"] for row in outputs(admin).to_pylist()}
    assert {path: len(found[path.removeprefix("releases/laion/index/")]) for path in listed} == listed
    said = console("index", "laion", "--model", MODEL, "--kind", kind).err
    assert said == f"releases/laion {MODEL}/image: is built; --restart builds it again\n"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("--kind", "rabitq", "--modality", "text", "--seed", 7), {"kind": "rabitq", "modality": "text", "seed": 7}),
        (("--kind", "pq128", "--lists", 40), {"kind": "pq128", "lists": 40}),
    ],
)
def test_the_options_and_plan_of_an_index_are_those_of_one_machine(
    admin: Connection, console: Console, tmp_path: Path, arguments: tuple[object, ...], options: dict[str, Any]
) -> None:
    release = release_in(tmp_path / "queue", batches=2)
    (build,) = console.json("index", "laion", "--model", MODEL, *arguments)["builds"]
    known = IndexOptions(model=MODEL, **options)
    assert scalar(admin, "SELECT options FROM tracker.build") == json.loads(known.to_json())
    assert build["plan"] == plan_to_json(index_jobs.plan_steps(release.store, "laion", known))


def test_the_plan_of_a_further_segment_and_of_a_compaction_is_that_of_one_machine(
    console: Console, tmp_path: Path
) -> None:
    made = MadeStore(Store.open(str(tmp_path / "queue")))
    first = publish_batch(made, "crawl", range(100))
    index_jobs.build(partial(work_on_release, first, IndexOptions(model=MODEL)))
    release = publish_batch(made, "second", range(100, 300), "2026-11-27")
    changes: dict[str, dict[str, Any]] = {"--add": {"further": True}, "--compact": {"compact": True}}
    for option, changed in changes.items():
        (build,) = console.json("index", "laion", "--model", MODEL, option, "--restart")["builds"]
        options = IndexOptions(model=MODEL, **changed)
        assert build["plan"] == plan_to_json(index_jobs.plan_steps(release.store, "laion", options))
    assert console("index", "laion", "--model", MODEL, "--add", "--compact").code == 2


@pytest.mark.parametrize("rows", [3, 19_999, 20_000, 50_000, 2_000_000, 2_000_001, 10**8, 5_850_000_000])
def test_kinds_and_lists_by_size_are_those_of_one_machine(rows: int) -> None:
    assert index_plans.kind_by_size(rows) == kinds.choose_kind(rows)
    assert index_plans.lists_by_size(rows) == kinds.choose_lists("sq16", rows)


@pytest.mark.parametrize("searched", [0, 1, 2])
def test_the_plan_of_a_search_is_that_of_one_machine(console: Console, tmp_path: Path, searched: int) -> None:
    options = Options(model=MODEL, at=0.9, careful=True)
    if searched:
        search(release_in(tmp_path / "queue", batches=searched), options)
    release = release_in(tmp_path / "queue", batches=2)
    (build,) = console.json("dedup", "laion", "--model", MODEL, "--at", 0.9, "--careful")["builds"]
    assert build["plan"] == plan_to_json(dedup_jobs.plan_steps(release.store, "laion", options))


def test_a_release_is_tagged_as_on_one_machine(
    admin: Connection, console: Console, register: Register, tmp_path: Path
) -> None:
    alone = release_to_tag(tmp_path / "alone")
    shutil.copytree(tmp_path / "alone", tmp_path / "queue")
    tag_alone(alone, find_heads(alone.store, ["unsafe", "mark"]))
    command = ("tag", "laion", "--head", "unsafe", "--head", "mark", "--model", TAGGED_MODEL)
    (build,) = console.json(*command)["builds"]
    worker = tag.Tag(tmp_path)
    steps = []
    session, store = register("tag"), Store.open(str(tmp_path / "queue"))
    while held := session.claim(100):
        for job in held:
            payload, options = job.payload, worker.options(job)
            if payload["step"] == "plan":
                assert build["plan"] == plan_to_json(tag.plan_steps(store, "laion", options))
            for _ in range(2):
                done = tag.run_unit(store, "laion", options, payload["step"], payload["number"], scratch=tmp_path)
            session.complete(job, result_of(job, asdict(done)))
            steps.append(payload["step"])
    assert len(steps) == sum(units for _, units in build["plan"])
    found = files_below(tmp_path / "queue")
    assert found == files_below(tmp_path / "alone")
    listed = {row["path"]: row["bytes"] for row in outputs(admin).to_pylist()}
    files = {path: len(data) for path, data in found.items() if path.startswith("releases/laion/tags/1-v1/")}
    assert listed == files
    assert console(*command).err == "releases/laion tags: is built; --restart builds it again\n"
