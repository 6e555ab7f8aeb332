"""Builds through the queue have the plans and the bytes of one machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dataset.dedup import jobs as dedup_jobs
from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.releases import Release
from dataset.formats.steps import plan_to_json
from dataset.store.store import Store
from tests.planted import MODEL, planted, put_release
from tests.tracker.filling import scalar
from tests.tracker.talking import Console
from tracker.database.database import Connection
from tracker.protocol.session import Session
from tracker.storage.manifest import outputs
from workers import dedup

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
            files = [{"path": file.path, "rows": file.rows, "bytes": file.bytes} for file in done.files]
            session.complete(job, {"rows_in": done.rows_in, "rows_out": done.rows_out, "files": files})
            yield payload["step"]


def test_near_duplicates_are_found_as_on_one_machine(
    admin: Connection, console: Console, register: Register, tmp_path: Path
) -> None:
    alone, queued = release_in(tmp_path / "alone"), release_in(tmp_path / "queue")
    search(alone, Options(model=MODEL, at=0.9))
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


@pytest.mark.parametrize("searched", [0, 1, 2])
def test_the_plan_of_a_search_is_that_of_one_machine(console: Console, tmp_path: Path, searched: int) -> None:
    options = Options(model=MODEL, at=0.9, careful=True)
    if searched:
        search(release_in(tmp_path / "queue", batches=searched), options)
    release = release_in(tmp_path / "queue", batches=2)
    (build,) = console.json("dedup", "laion", "--model", MODEL, "--at", 0.9, "--careful")["builds"]
    assert build["plan"] == plan_to_json(dedup_jobs.plan_steps(release.store, "laion", options))
