"""Units of builds are done in processes that can be killed, and end with their worker."""

import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from dataset.formats.releases import FORMAT, CardDetails, ReleaseOptions, ReleaseRecord
from dataset.store.store import Store
from tests.tracker.filling import scalar, set_setting
from tests.workers.fake_units import PLAN, FakeUnits
from tracker.database.database import Connection
from tracker.protocol.session import Session
from tracker.seeding.builds import Build, seed_build
from tracker.seeding.releases import open_release_run
from tracker.storage.manifest import outputs
from workers.errors import CannotWork, Stopped
from workers.runtime.context import WorkContext
from workers.runtime.loop import StopWhen, run
from workers.runtime.unit_process import UnitFailed, UnitRequest, run_in_process
from workers.runtime.unit_stage import scratch_folder

MODULE = FakeUnits.module
Register = Callable[[str], Session]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    put_version(store, "1.0.0")
    return store


def put_version(store: Store, version: str) -> None:
    record = ReleaseRecord(
        format=FORMAT, name="r1", version=version, previous=None, published="2026-11-26", inputs=(),
        options=ReleaseOptions(unique=(), drop_contacts=False, mixed=False, variants={}, rows_per_file=1),
        card=CardDetails(), columns={}, aesthetic=False, next_id=0, batches=(), removed={}, files=(),
    )  # fmt: skip
    store.put("releases/r1/release.json", record.to_json())


def request(tmp_path: Path, **changes: Any) -> UnitRequest:
    known: dict[str, Any] = {
        "store": str(tmp_path / "store"), "release": "r1", "version": "1.0.0", "options": {},
        "plan": [list(step) for step in PLAN], "step": "train", "unit": 0, "scratch": str(tmp_path), "max_bytes": None,
    }  # fmt: skip
    return UnitRequest(**known | changes)


def work(session: Session, store: Store, scratch: Path) -> None:
    trio.run(run, FakeUnits(scratch), WorkContext(session, store), StopWhen(until_idle=True))


def test_a_worker_takes_a_build_from_its_first_step_to_its_last(
    admin: Connection, register: Register, store: Store, tmp_path: Path
) -> None:
    seed_build(admin, open_release_run(admin, store.uri, "r1"), Build("dedup", "", {"at": 0.94}, PLAN))
    work(register("dedup"), store, tmp_path / "scratch")
    assert scalar(admin, "SELECT finished_at IS NOT NULL FROM tracker.build")
    listed = {row["path"]: (row["rows"], row["bytes"]) for row in outputs(admin).to_pylist()}
    assert listed == {f"releases/r1/duplicates/{name}.txt": (3, 64)
                      for name in ("train-0", "add-0", "add-1", "add-2", "finish-0")}  # fmt: skip
    assert all(store.exists(path) for path in listed)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ends": "sentence"}, "unit 0 of step train: The embeddings have changed: search anew."),
        ({"ends": "taken down"}, r"Rows of r1 1\.0\.0 were removed in the meantime: .* with --restart"),
        ({"ends": "memory"}, r"unit 0 of step train: the memory of 0.5 GiB \(--memory\) is not enough"),
        ({"ends": "killed"}, "the process of unit 0 of step train was killed by SIGKILL"),
        ({"ends": "exit"}, "the process of unit 0 of step train ended with 3"),
        ({"plan": [["train", 2]]}, r"the release r1 now makes the plan .*begin it again with --restart"),
    ],
)
def test_a_unit_that_fails_says_why(store: Store, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UnitFailed, match=said):
        run_in_process(MODULE, request(tmp_path, options=options, max_bytes=512 << 20), lambda _: None)


def test_a_unit_of_a_build_over_a_version_whose_rows_were_removed_is_refused(store: Store, tmp_path: Path) -> None:
    put_version(store, "1.2.0")
    run_in_process(MODULE, request(tmp_path), lambda _: None)
    put_version(store, "2.0.0")
    with pytest.raises(UnitFailed, match=r"Rows of r1 1.0.0 were removed in the meantime: .* with --restart"):
        run_in_process(MODULE, request(tmp_path), lambda _: None)


def test_a_failed_unit_uses_up_an_attempt_and_keeps_its_sentence(
    admin: Connection, register: Register, store: Store, tmp_path: Path
) -> None:
    set_setting(admin, "max_attempts", 1)
    build = Build("dedup", "", {"ends": "sentence"}, PLAN)
    seed_build(admin, open_release_run(admin, store.uri, "r1"), build)
    work(register("dedup"), store, tmp_path / "scratch")
    assert scalar(admin, "SELECT error FROM tracker.job WHERE state = 'dead'") == (
        "UnitFailed: unit 0 of step train: The embeddings have changed: search anew."
    )


def test_a_missing_package_ends_the_worker(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CannotWork, match=r"faiss is not installed: install Shoal with its extra \[index\]"):
        run_in_process(MODULE, request(tmp_path, options={"ends": "missing"}), lambda _: None)


def test_a_later_step_does_not_ask_whether_the_release_is_the_same(store: Store, tmp_path: Path) -> None:
    changed = request(tmp_path, options={"plan": [["train", 2]]}, step="add", unit=2)
    assert run_in_process(MODULE, changed, lambda _: None)["rows_in"] == 5


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A file that the unit `never` holds a lock on until it is gone."""
    path = tmp_path / "lock"
    path.touch()
    return path


def wait_until_released(path: Path) -> None:
    """Return when no process holds the lock of a file that was locked."""
    assert path.read_bytes() == b"locked"
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def test_a_unit_whose_worker_is_asked_to_stop_is_killed(store: Store, tmp_path: Path, locked: Path) -> None:
    used: list[int] = []

    def step(milliseconds: int) -> None:
        used.append(milliseconds)
        if locked.read_bytes():
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        run_in_process(MODULE, request(tmp_path, options={"ends": "never", "lock": str(locked)}), step)
    wait_until_released(locked)
    assert sum(used) > 0


def test_a_unit_ends_with_its_worker(store: Store, tmp_path: Path, locked: Path) -> None:
    asked = request(tmp_path, options={"ends": "never", "lock": str(locked)})
    code = (
        "import sys; from workers.runtime.unit_process import *; from pathlib import Path\n"
        f"run_in_process({MODULE!r}, {asked!r}, lambda _: print(Path({str(locked)!r}).read_text(), flush=True))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    while "locked" not in worker.stdout.readline():
        assert worker.poll() is None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    wait_until_released(locked)


def test_the_scratch_of_a_worker_that_was_killed_is_deleted_and_that_of_others_is_kept(tmp_path: Path) -> None:
    abandoned = tmp_path / "shoal-unit-dead"
    (abandoned / "deep").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    with scratch_folder(tmp_path) as first, scratch_folder(tmp_path) as second:
        assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_scratch_that_cannot_be_written_ends_the_worker(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotWork, match="give another folder with --scratch"), scratch_folder(tmp_path / "file"):
        pass
