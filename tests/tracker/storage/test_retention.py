"""A shard's pictures are deleted when their time is over: never before, never without a mark, and also after a
crash.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg.errors import CheckViolation

from tests.tracker.filling import fill_pool, new_run, scalar, set_setting
from tests.tracker.talking import Console
from tracker.accounts.audit import audit_exact
from tracker.database.database import Connection, connect
from tracker.duties.serve import tick
from tracker.errors import TrackerError
from tracker.protocol.session import Session
from tracker.seeding.runs import seed
from tracker.storage import retention
from tracker.storage.manifest import outputs
from tracker.storage.retention import Deleted, checked, retain

Register = Callable[[str], Session]


@pytest.fixture
def console(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path))
    return Console(database, monkeypatch, capsys)


def keep(admin: Connection, time: str) -> None:
    admin.execute("UPDATE tracker.run SET keep_shards = %s", (time,))


def make_shard(admin: Connection, register: Register, store: Path, samples: int = 10) -> str:
    """A shard of ten links with its files, of which the tar alone matters here; its stem."""
    if scalar(admin, "SELECT count(*) FROM tracker.run") == 0:
        new_run(admin)
    fill_pool(admin, 1, 10)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    stem = store / batch.output
    stem.parent.mkdir(parents=True, exist_ok=True)
    (stem.parent / f"{stem.name}.tar").write_bytes(bytes(500))
    (stem.parent / f"{stem.name}.parquet").write_bytes(b"")
    finished = {"success": samples, "gone": 10 - samples}
    told = {"finished": finished, "again": [], "returned": [], "samples": samples, "bytes": 1, "tar_bytes": 500}
    worker.complete(batch, told)
    return batch.output


def filter_shard(register: Register, kept: int, tar_bytes: int | None = None, samples: int = 10) -> None:
    worker = register("filter")
    (job,) = worker.claim()
    told: dict[str, object] = {"kept": kept, "dropped": {"below_threshold": samples - kept}, "bytes": 1}
    worker.complete(job, told if tar_bytes is None else told | {"tar_bytes": tar_bytes})


def tars(store: Path) -> list[str]:
    return sorted(str(path.relative_to(store)).removesuffix(".tar") for path in store.rglob("*.tar"))


def test_a_tar_is_deleted_when_its_part_is_as_old_as_the_run_keeps_tars(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    shard = make_shard(admin, register, tmp_path)
    assert scalar(admin, "SELECT keep_shards FROM tracker.run") == "24h"
    filter_shard(register, kept=4)
    assert retain(admin, str(tmp_path)) == Deleted()
    admin.execute("UPDATE tracker.manifest SET filtered_at = now() - interval '25 hours' WHERE kind = 'shard'")
    assert retain(admin, str(tmp_path)) == Deleted(shards=1, bytes=500)
    assert tars(tmp_path) == []
    assert (tmp_path / f"{shard}.parquet").exists()  # the outcome of every link stays
    assert retain(admin, str(tmp_path)) == Deleted()
    (row,) = [row for row in outputs(admin).to_pylist() if row["kind"] == "shard"]
    assert row["tar_deleted_at"] is not None


def test_a_shard_without_a_part_keeps_its_tar(admin: Connection, register: Register, tmp_path: Path) -> None:
    shard = make_shard(admin, register, tmp_path)
    keep(admin, "0s")
    assert retain(admin, str(tmp_path)) == Deleted()
    register("filter").claim()
    assert retain(admin, str(tmp_path)) == Deleted()
    assert tars(tmp_path) == [shard]


def test_a_run_that_keeps_forever_loses_nothing(admin: Connection, register: Register, tmp_path: Path) -> None:
    shard = make_shard(admin, register, tmp_path)
    filter_shard(register, kept=4)
    keep(admin, "forever")
    admin.execute("UPDATE tracker.manifest SET filtered_at = now() - interval '9 years' WHERE kind = 'shard'")
    assert retain(admin, str(tmp_path)) == Deleted()
    assert tars(tmp_path) == [shard]


def test_a_run_that_keeps_what_was_kept_waits_for_the_tar_that_has_it(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    whole = make_shard(admin, register, tmp_path)
    filter_shard(register, kept=4)  # by a worker that did not know: the shard alone has the kept pictures
    keep(admin, "kept")
    for kept, tar_bytes in ((3, 150), (0, None)):
        make_shard(admin, register, tmp_path)
        filter_shard(register, kept, tar_bytes)
    assert retain(admin, str(tmp_path)) == Deleted(shards=2, bytes=1000)
    assert tars(tmp_path) == [whole]


def test_the_filter_worker_is_told_what_to_keep(admin: Connection, register: Register, tmp_path: Path) -> None:
    make_shard(admin, register, tmp_path)
    keep(admin, "kept")
    (job,) = register("filter").claim()
    assert job.payload["keep_shards"] == "kept"


def test_the_filter_worker_is_told_when_the_shard_was_complete_however_late_it_claims(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    make_shard(admin, register, tmp_path)
    admin.execute("UPDATE tracker.manifest SET created_at = '2026-11-26 18:00:01.9+00'")
    (job,) = register("filter").claim()
    assert job.payload["fetched"] == 1_795_716_001


def test_a_discarded_shards_tar_is_deleted_like_a_filtered_ones(
    admin: Connection, register: Register, tmp_path: Path, console: Console
) -> None:
    make_shard(admin, register, tmp_path)
    keep(admin, "kept")
    admin.execute("UPDATE tracker.job SET state = 'dead', finished_at = now(), error = 'no' WHERE state = 'ready'")
    assert console.json("discard", "--all", "--yes")["jobs"] == 1
    assert retain(admin, str(tmp_path)) == Deleted(shards=1, bytes=500)


@pytest.mark.parametrize("died", ["before the deletion", "after the deletion"])
def test_a_round_that_died_on_the_way_is_gone_on_with(
    admin: Connection, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died: str
) -> None:
    shard = make_shard(admin, register, tmp_path)
    filter_shard(register, kept=4)
    keep(admin, "0s")
    real = retention._delete

    def die(*arguments: object) -> bool:
        if died == "after the deletion":
            real(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(retention, "_delete", die)
    with pytest.raises(KeyboardInterrupt):
        retain(admin, str(tmp_path))
    row = admin.execute("SELECT tar_deleting_at, tar_deleted_at FROM tracker.manifest WHERE kind = 'shard'").fetchone()
    assert row is not None
    assert row["tar_deleting_at"] is not None  # nobody counts on it any more
    assert row["tar_deleted_at"] is None
    assert tars(tmp_path) == ([shard] if died == "before the deletion" else [])
    monkeypatch.setattr(retention, "_delete", real)
    keep(admin, "forever")  # too late for what is given up already
    assert retain(admin, str(tmp_path)) == Deleted(shards=1, bytes=500)
    assert tars(tmp_path) == []


def test_a_tar_that_cannot_be_deleted_does_not_keep_the_others(
    admin: Connection, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, *others = [make_shard(admin, register, tmp_path) for _ in range(3)]
    for _ in range(3):
        filter_shard(register, kept=4)
    keep(admin, "0s")
    (tmp_path / f"{stuck}.tar").unlink()
    (tmp_path / f"{stuck}.tar").mkdir()
    monkeypatch.setattr(retention, "TARS_IN_A_ROUND", 1)
    rounds = [retain(admin, str(tmp_path)) for _ in range(6)]
    assert sum(deleted.shards for deleted in rounds) == len(others)
    assert tars(tmp_path) == [stuck]
    (tmp_path / f"{stuck}.tar").rmdir()
    assert [retain(admin, str(tmp_path)) for _ in range(2)].count(Deleted(shards=1, bytes=500)) == 1


def test_two_rounds_at_once_write_a_tar_off_once(
    admin: Connection, database: str, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shard(admin, register, tmp_path)
    filter_shard(register, kept=4)
    keep(admin, "0s")
    real = retention._delete
    others: list[Deleted] = []

    def delete(*arguments: object) -> bool:
        monkeypatch.setattr(retention, "_delete", real)
        with connect(database) as other:
            others.append(retain(other, str(tmp_path)))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(retention, "_delete", delete)
    assert retain(admin, str(tmp_path)) == Deleted()
    assert others == [Deleted(shards=1, bytes=500)]
    assert scalar(admin, "SELECT sum(n) FROM tracker.tally WHERE account = 'stored' AND label <> 'written'") == 0


def test_a_store_that_is_not_the_shards_is_refused_and_nothing_is_written_off(
    admin: Connection, register: Register, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = make_shard(admin, register, tmp_path / "ours")
    filter_shard(register, kept=4)
    keep(admin, "0s")
    (tmp_path / "other").mkdir()
    with pytest.raises(TrackerError, match="SHOAL_STORE"):
        retain(admin, str(tmp_path / "other"))
    tick(admin, str(tmp_path / "other"))  # its other duties are done all the same
    assert "tracker.shards_stay" in caplog.text
    assert tars(tmp_path / "ours") == [shard]
    assert retain(admin, str(tmp_path / "ours")) == Deleted(shards=1, bytes=500)


def test_what_was_deleted_makes_room_for_downloads(admin: Connection, register: Register, tmp_path: Path) -> None:
    make_shard(admin, register, tmp_path)
    set_setting(admin, "shard_samples_high", 10)
    set_setting(admin, "shard_samples_resume", 0)
    fill_pool(admin, 1, 10)
    worker = register("download")
    assert worker.draw() is None
    filter_shard(register, kept=4)
    keep(admin, "0s")
    tick(admin, str(tmp_path))
    assert worker.draw() is not None


def test_a_tar_that_is_missing_is_found_by_the_exact_audit(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    shard = make_shard(admin, register, tmp_path)
    (tmp_path / f"{shard}.tar").unlink()
    assert f"{shard}.tar is in the manifest, but is missing" in audit_exact(admin, str(tmp_path)).differences


def test_what_is_booked_as_stored_is_held_against_the_manifest(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    make_shard(admin, register, tmp_path)
    admin.execute("UPDATE tracker.ledger SET n = n + 1 WHERE account = 'stored' AND label = 'bytes'")
    differences = audit_exact(admin, str(tmp_path)).differences
    assert "run test: there are 500 bytes in shards, the ledger says 501" in differences


def test_a_link_that_is_final_in_two_shards_is_named_although_the_sums_are_right(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    for rows in ([0, 1], [1, 3]):  # link 1 twice, and link 2 never
        shard = make_shard(admin, register, tmp_path, samples=0)
        table = {"outcome": ["gone"] * 2, "final": [True] * 2, "subset": ["en"] * 2, "pack": [7] * 2, "pack_row": rows}
        pq.write_table(pa.table(table), tmp_path / f"{shard}.parquet")
    assert "run test: 1 links are final twice in the shards" in audit_exact(admin, str(tmp_path)).differences


def test_samples_that_are_never_filtered_are_reported_as_missing(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    make_shard(admin, register, tmp_path, samples=6)
    missed = "run test: there are 0 samples to be filtered, the ledger says 6"
    assert missed not in audit_exact(admin, str(tmp_path)).differences
    admin.execute("DELETE FROM tracker.job WHERE queue = 'filter'")
    assert missed in audit_exact(admin, str(tmp_path)).differences


def test_an_invalid_time_is_refused(admin: Connection) -> None:
    new_run(admin)
    for text in ("", "24", "h", "1.5h", "-1h", "24 h", "1y", "9999999h", "٣h", "never"):
        with pytest.raises(TrackerError, match="give a time like 24h"):
            checked(text)
        with pytest.raises(CheckViolation, match="run_keeps_shards_for_a_time"):
            keep(admin, text)


def test_a_time_before_the_first_moment_is_refused() -> None:
    with pytest.raises(TrackerError, match="shards cannot be kept"):
        checked("999999w")


def test_every_time_is_one_to_the_database_too(admin: Connection, register: Register, tmp_path: Path) -> None:
    make_shard(admin, register, tmp_path)
    filter_shard(register, kept=0)
    admin.execute("UPDATE tracker.manifest SET filtered_at = now() - interval '29 minutes' WHERE kind = 'shard'")
    for text in ("30m", "24h", "7d", "5w", "999999s", "5214w", "forever"):
        keep(admin, checked(text))
        assert retain(admin, str(tmp_path)) == Deleted()
    keep(admin, checked("1200s"))
    assert retain(admin, str(tmp_path)).shards == 1


def test_a_time_is_fixed_with_the_run_and_changed_by_its_own_command(admin: Connection, console: Console) -> None:
    seed(admin, [], run="test", recipe=None, keep_shards="7d")
    seed(admin, ["/wat/1"], run="test", recipe=None)
    with pytest.raises(TrackerError, match="keeps its shards 7d"):
        seed(admin, [], run="test", recipe=None, keep_shards="kept")
    assert console.json("keep-shards", "test", "forever")["before"] == "7d"
    (entry,) = console.json("log")["changes"]
    assert (entry["subject"], entry["before"]) == ("test", {"keep_shards": "7d"})
    assert "there is no run other" in console.refusal("keep-shards", "other", "24h")
    assert "cannot be kept" in console.refusal("keep-shards", "test", "soon")


def test_a_time_that_would_delete_at_once_needs_a_yes(
    admin: Connection, register: Register, tmp_path: Path, console: Console
) -> None:
    make_shard(admin, register, tmp_path)
    keep(admin, "forever")
    filter_shard(register, kept=4)
    said = console("keep-shards", "test", "0s", "--json")
    assert (said.code, said.data["changed"], said.data["shards"], said.data["bytes"]) == (1, False, 1, 500)
    assert console("keep-shards", "test", "24h").code == 0
    assert console.json("keep-shards", "test", "0s", "--yes")["changed"] is True
    assert scalar(admin, "SELECT keep_shards FROM tracker.run") == "0s"
