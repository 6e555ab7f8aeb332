"""The tracker writes the manifest and dataset reads it: the same file and schema, although neither imports the
other.
"""

import json
from pathlib import Path
from uuid import UUID

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from dataset.formats import manifest as reading
from dataset.store.store import Store
from tests.tracker.filling import finished_job, new_run, scalar
from tracker.database.database import Connection
from tracker.database.enums import OUTPUT_KINDS
from tracker.database.migrate import migrate
from tracker.errors import TrackerError
from tracker.storage import manifest as writing
from tracker.storage.whole_files import write_whole

LIST = """
INSERT INTO tracker.manifest (kind, run_id, job_id, lease, subset, path, rows)
SELECT 'part', %s, %s, gen_random_uuid(), 'en', 'test/parts/' || i, i FROM generate_series(1, %s) AS i
"""


def test_the_tracker_and_the_data_agree_on_the_manifest() -> None:
    assert writing.SCHEMA.equals(reading.MANIFEST_SCHEMA)
    assert (writing.NAME, writing.TRACKER_KEY, writing.RUNS_KEY) == (
        reading.MANIFEST,
        reading.TRACKER_KEY,
        reading.RUNS_KEY,
    )
    assert set(OUTPUT_KINDS) == {str(kind) for kind in reading.OutputKind}


def test_what_is_written_is_read_over_the_borders_of_row_groups(
    admin: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", 3)
    run_id = new_run(admin)
    new_run(admin, "empty")
    admin.execute(LIST, (run_id, finished_job(admin, run_id), 8))
    assert writing.write_manifest(admin, str(tmp_path)) == 8
    assert pq.ParquetFile(tmp_path / "manifest.parquet").num_row_groups == 3
    store = Store.open(str(tmp_path))
    assert [(one.rows, one.path) for one in reading.outputs(store, run="test")] == [
        (i, f"test/parts/{i}") for i in range(1, 9)
    ]
    assert list(reading.outputs(store, run="empty")) == []
    head = reading.ManifestHead.read(store)
    assert head.runs == ("test", "empty")
    assert head.tracker == scalar(admin, "SELECT tracker FROM tracker.identity")


def test_the_outputs_of_a_moment_are_kept_in_a_file_and_read_a_row_group_at_a_time(
    admin: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", 2)
    run_id = new_run(admin)
    job = finished_job(admin, run_id)
    admin.execute(LIST, (run_id, job, 5))
    whole = writing.outputs(admin).to_pylist()
    with admin.transaction():
        listed = writing.list_outputs(admin, tmp_path / "outputs.parquet")
    admin.execute("DELETE FROM tracker.manifest")
    assert len(whole) == 5
    assert list(listed) == list(listed) == whole
    assert pq.ParquetFile(tmp_path / "outputs.parquet").num_row_groups == 3


def test_a_full_disk_for_the_list_of_outputs_is_one_sentence(admin: Connection, tmp_path: Path) -> None:
    with admin.transaction(), pytest.raises(TrackerError, match="set TMPDIR to a folder with more space"):
        writing.list_outputs(admin, tmp_path / "none" / "outputs.parquet")


def test_embeddings_name_what_was_embedded(admin: Connection, tmp_path: Path) -> None:
    run_id = new_run(admin)
    job = finished_job(admin, run_id)
    admin.execute(
        "UPDATE tracker.job SET payload = %s WHERE job_id = %s", (json.dumps({"source": "test/parts/1"}), job)
    )
    admin.execute(LIST, (run_id, job, 1))
    admin.execute(
        "INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows) "
        "VALUES ('embeddings', %s, %s, gen_random_uuid(), 'test/embeddings/m/1', 1)",
        (run_id, job),
    )
    writing.write_manifest(admin, str(tmp_path))
    assert [one.source for one in reading.outputs(Store.open(str(tmp_path)))] == [None, "test/parts/1"]


def test_the_uuid_of_a_tracker_is_made_once(admin: Connection, database: str) -> None:
    before = scalar(admin, "SELECT tracker FROM tracker.identity")
    assert isinstance(before, UUID)
    migrate(database)
    assert scalar(admin, "SELECT tracker FROM tracker.identity") == before


def test_a_manifest_that_breaks_off_leaves_the_one_before(
    admin: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run(admin)
    admin.execute(LIST, (run_id, finished_job(admin, run_id), 2))
    writing.write_manifest(admin, str(tmp_path))
    whole = (tmp_path / "manifest.parquet").read_bytes()

    def broken(_writer: pq.ParquetWriter, _batch: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", broken)
    with pytest.raises(TrackerError, match="No space left"):
        writing.write_manifest(admin, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]
    assert (tmp_path / "manifest.parquet").read_bytes() == whole


def test_a_large_file_is_sent_to_an_object_store_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    remote = pafs.SubTreeFileSystem("there", pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()))
    monkeypatch.setattr("tracker.storage.whole_files.UPLOAD_BYTES", 1_000)
    with write_whole(remote, "big") as file:
        for _ in range(10):
            file.write(b"x" * 999)
    assert (tmp_path / "there" / "big").read_bytes() == b"x" * 9_990


def test_the_migration_takes_md5_out_of_a_recipe(admin: Connection) -> None:
    run_id = new_run(admin)
    admin.execute(
        'UPDATE tracker.run SET recipe = \'{"image": {"md5": true, "size": 9}}\' WHERE run_id = %s', (run_id,)
    )
    script = (Path(__file__).parents[3] / "migrations" / "versions" / "0006_identity.sql").read_text()
    admin.execute(script[script.index("UPDATE") :].encode())
    assert scalar(admin, "SELECT recipe FROM tracker.run") == {"image": {"size": 9}}
