"""The sweep deletes what dead and late workers left, and nothing else: not what is listed, live, young or foreign."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pyarrow.fs as pafs
import pytest

from tests.tracker.filling import fill_pool, listed_pack, new_run, scalar, set_setting
from tests.tracker.talking import Console
from tracker.database.database import Connection
from tracker.errors import TrackerError
from tracker.protocol.session import Batch, Session
from tracker.storage import sweep as sweeping
from tracker.storage.sweep import Reason, Swept, list_files, sweep

Register = Callable[[str], Session]
Expire = Callable[[Session], None]
DAY = timedelta(days=1)


@pytest.fixture
def console(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path))
    return Console(database, monkeypatch, capsys)


def put(store: Path, path: str, hours: float = 48, size: int = 10) -> str:
    """A file as it was so many hours ago."""
    place = store / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(bytes(size))
    then = time.time() - 3600 * hours
    os.utime(place, (then, then))
    return path


def batch_of(admin: Connection, worker: Session) -> Batch:
    if scalar(admin, "SELECT count(*) FROM tracker.run") == 0:
        new_run(admin)
    fill_pool(admin, 1, 10)
    batch = worker.draw()
    assert batch is not None
    return batch


def complete(worker: Session, batch: Batch) -> None:
    told = {"finished": {"success": batch.n}, "again": [], "returned": [], "samples": batch.n}
    worker.complete(batch, told | {"bytes": 1, "tar_bytes": 1})


def sweep_all(admin: Connection, store: Path, *, delete: bool = True) -> Swept:
    return sweep(admin, str(store), older_than=DAY, delete=delete, show=100, on_files=lambda _: None)


def left(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}


def test_files_of_a_late_worker_are_deleted_and_listed_files_stay(
    admin: Connection, register: Register, expire: Expire, tmp_path: Path
) -> None:
    late, other = register("download"), register("download")
    lost = batch_of(admin, late)
    expire(late)
    taken = other.draw()
    assert taken is not None
    assert taken.job_id == lost.job_id
    complete(other, taken)
    for batch in (lost, taken):
        for ending in ("tar", "parquet"):
            put(tmp_path, f"{batch.output}.{ending}")
    swept = sweep_all(admin, tmp_path)
    assert swept.to_delete == (2, 20)
    assert left(tmp_path) == {f"{taken.output}.tar", f"{taken.output}.parquet"}
    assert sweep_all(admin, tmp_path).to_delete == (0, 0)


def test_what_a_live_lease_is_writing_stays_whatever_its_age(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    worker = register("download")
    batch = batch_of(admin, worker)
    path = put(tmp_path, f"{batch.output}.tar")
    assert sweep_all(admin, tmp_path).files == {Reason.LIVE: 1}
    worker.release(batch)
    assert sweep_all(admin, tmp_path).files == {Reason.LEFT: 1}
    assert path not in left(tmp_path)


def test_what_is_younger_than_the_bound_stays(admin: Connection, register: Register, tmp_path: Path) -> None:
    worker = register("download")
    batch = batch_of(admin, worker)
    worker.release(batch)
    path = put(tmp_path, f"{batch.output}.tar", hours=23)
    assert sweep_all(admin, tmp_path).files == {Reason.YOUNG: 1}
    assert left(tmp_path) == {path}


def test_what_another_swarm_or_a_person_put_there_is_not_touched(admin: Connection, tmp_path: Path) -> None:
    new_run(admin)
    foreign = {
        put(tmp_path, "thesis.tex"),
        put(tmp_path, f"test/shards/0000000001-{uuid4()}.tar"),  # a lease that this tracker never gave
        put(tmp_path, f"bloom/0-0000000001-{uuid4()}.bloom"),
        put(tmp_path, "models/clip/weights.safetensors"),
        put(tmp_path, "manifest.parquet"),
        put(tmp_path, "notes.partial"),
    }
    assert sweep_all(admin, tmp_path).files == {Reason.FOREIGN: 6}
    assert left(tmp_path) == foreign


def test_a_known_lease_under_another_jobs_name_is_foreign(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    worker = register("download")
    batch = batch_of(admin, worker)
    worker.release(batch)
    put(tmp_path, f"test/shards/{batch.job_id + 1:010d}-{batch.lease}.tar")
    assert sweep_all(admin, tmp_path).files == {Reason.FOREIGN: 1}


def test_unfinished_files_go(admin: Connection, tmp_path: Path) -> None:
    put(tmp_path, f"test/shards/.{uuid4().hex}.partial")
    put(tmp_path, f"probe-{uuid4().hex}.partial")
    put(tmp_path, f".{uuid4().hex}.partial")
    under_way = put(tmp_path, f"test/shards/.{uuid4().hex}.partial", hours=0)
    assert sweep_all(admin, tmp_path).to_delete == (3, 30)
    assert left(tmp_path) == {under_way}


def test_packs_are_listed_slot_by_slot(admin: Connection, register: Register, tmp_path: Path) -> None:
    new_run(admin, wats=1)
    set_setting(admin, "bloom_slots", 2)
    worker = register("extract")
    (job,) = worker.claim()
    slots = [{"rows": 3, "bytes": 1}, {"rows": 0, "bytes": 1}]
    worker.complete(job, {"images": 3, "candidates": 3, "slots": slots})
    listed, empty = (put(tmp_path, f"{job.output}.{slot}.parquet") for slot in range(2))
    assert sweep_all(admin, tmp_path).files == {Reason.LISTED: 1, Reason.LEFT: 1}
    assert left(tmp_path) == {listed}
    assert empty not in left(tmp_path)


def test_a_tar_that_was_written_off_is_deleted_and_its_parquet_stays(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    worker = register("download")
    batch = batch_of(admin, worker)
    complete(worker, batch)
    put(tmp_path, f"{batch.output}.tar")
    table = put(tmp_path, f"{batch.output}.parquet")
    admin.execute("UPDATE tracker.manifest SET tar_deleting_at = now(), tar_deleted_at = now()")
    assert sweep_all(admin, tmp_path).files == {Reason.TAR: 1, Reason.LISTED: 1}
    assert left(tmp_path) == {table}


def test_the_filters_old_snapshots_go_and_the_one_to_replay_from_stays(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    listed_pack(admin, new_run(admin), 1)
    worker = register("ingest")
    assert worker.hold_slot() is not None
    now, before = (put(tmp_path, f"bloom/0-000000000{n}-{worker.worker_id}.bloom") for n in (2, 1))
    admin.execute("UPDATE tracker.bloom SET snapshot_path = %s", (now,))
    assert sweep_all(admin, tmp_path).files == {Reason.LISTED: 1, Reason.SNAPSHOT: 1}
    assert left(tmp_path) == {now}
    assert before not in left(tmp_path)


def test_a_dry_run_shows_and_deletes_nothing(
    admin: Connection, register: Register, tmp_path: Path, console: Console
) -> None:
    worker = register("download")
    batch = batch_of(admin, worker)
    worker.release(batch)
    path = put(tmp_path, f"{batch.output}.tar", size=123)
    said = console.json("sweep")
    assert (said["deleted"], said["files"], said["bytes"]) == (False, 1, 123)
    assert said["first"] == [{"path": path, "bytes": 123, "why": "left"}]
    shown = console("sweep").out
    assert path in shown
    assert "add --yes" in shown
    assert left(tmp_path) == {path}
    assert console.json("log")["changes"] == []
    assert console.json("sweep", "--yes")["deleted"] is True
    assert left(tmp_path) == set()
    (entry,) = console.json("log")["changes"]
    assert (entry["command"], entry["before"]) == ("sweep", {"files": 1, "bytes": 123})


def test_an_age_at_which_workers_may_still_write_is_refused(
    admin: Connection, tmp_path: Path, console: Console
) -> None:
    assert "1h or more" in console.refusal("sweep", "--older-than", "30m")
    assert console("sweep", "--older-than", "kept").code == 2
    with pytest.raises(TrackerError, match="nowhere does not exist"):
        sweep_all(admin, tmp_path / "nowhere")


def test_it_is_listed_and_judged_piece_by_piece(
    admin: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "FILES_AT_ONCE", 3)
    for number in range(7):
        put(tmp_path, f"{number}/{uuid4().hex}")
    seen: list[int] = []
    sweep(admin, str(tmp_path), older_than=DAY, delete=True, show=0, on_files=seen.append)
    assert seen == [3, 6, 7]


def test_an_object_store_is_listed_folder_by_folder(tmp_path: Path) -> None:
    paths = {put(tmp_path, path) for path in ("a", "run/shards/b", "run/parts/c", "run/parts/d/e")}
    # Not a local file system to us, so that it is listed like a bucket.
    inner = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    listed = list(list_files(pafs.SubTreeFileSystem("", inner)))
    assert {file.path for file in listed} == paths
    assert all(file.changed_at.tzinfo is not None and file.bytes == 10 for file in listed)


def age(place: Path, hours: float) -> None:
    then = time.time() - 3600 * hours
    os.utime(place, (then, then))


def test_hash_lists_that_no_worker_can_need_any_more_are_deleted(
    admin: Connection, console: Console, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    hashes = tmp_path / "outside" / "a.txt"
    hashes.write_text("0123456789abcdef" * 2)
    for name in ("kept", "removed", "just-removed"):
        console.json("hash-lists", "add", hashes, "--reason", "test", "--name", name)
    hashes.unlink()
    paths = {row["name"]: row["path"] for row in console.json("hash-lists", "list")["lists"]}
    for name in ("removed", "just-removed"):
        console.json("hash-lists", "remove", name, "--yes")
    admin.execute("UPDATE tracker.change SET changed_at = changed_at - interval '2 hours' WHERE subject = 'removed'")
    orphan = put(tmp_path, f"hash_lists/{uuid4().hex}.hashes")  # its command died before the list was in force
    admin.execute("INSERT INTO tracker.change (who, command, subject) VALUES ('x', 'hash-lists write', %s)", (orphan,))
    aside = put(tmp_path, f"hash_lists/.{uuid4().hex}.partial")
    foreign = put(tmp_path, f"hash_lists/{uuid4().hex}.hashes")
    assert sweep_all(admin, tmp_path).files[Reason.YOUNG] == 1
    for path in paths.values():
        age(tmp_path / path, 48)
    assert sweep_all(admin, tmp_path).files == {Reason.LISTED: 2, Reason.HASH_LIST: 1, Reason.FOREIGN: 1}
    assert left(tmp_path) == {paths["kept"], paths["just-removed"], foreign}
    assert not {orphan, aside, paths["removed"]} & left(tmp_path)
