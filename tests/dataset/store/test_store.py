from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pytest

from dataset.store.store import Store, StoreError

TABLE = pa.table({"url": ["a", "b"], "rows": pa.array([1, 2], pa.int32())})


class ObjectStore(Store):
    """A bucket: no folders to be made, no rename; pyarrow's own in-memory file system stands in for the service."""

    def __init__(self) -> None:
        filesystem, _ = pa.fs.FileSystem.from_uri("mock:///bucket")
        filesystem.create_dir("bucket/runs")
        super().__init__("mock:///bucket", filesystem, "bucket")


@pytest.fixture(params=["folder", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store")) if request.param == "folder" else ObjectStore()


def fail_writing(store: Store, path: str) -> None:
    with store.write(path) as file:
        file.write(b"half of the n")
        raise KeyError


def test_a_file_is_there_when_its_writing_has_ended_and_not_before(store: Store) -> None:
    with store.write("runs/a.bin") as file:
        file.write(b"one")
        file.flush()
        assert not store.exists("runs/a.bin")
        assert store.list() == []
    assert store.read("runs/a.bin") == b"one"
    assert store.size("runs/a.bin") == 3
    assert store.list("runs") == ["runs/a.bin"]


def test_a_failed_writing_leaves_the_old_file_and_nothing_else(store: Store) -> None:
    store.put("runs/a.bin", b"old")
    with pytest.raises(KeyError):
        fail_writing(store, "runs/a.bin")
    assert store.read("runs/a.bin") == b"old"
    assert store.list() == ["runs/a.bin"]


def test_nothing_is_left_aside_in_a_folder(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with pytest.raises(KeyError):
        fail_writing(store, "a")
    store.put("b", b"")
    assert [found.name for found in tmp_path.iterdir()] == ["b"]


def test_a_file_that_closed_itself_is_published_all_the_same(store: Store) -> None:
    with store.write("runs/a.bin") as file:
        file.write(b"one")
        file.close()
    assert store.read("runs/a.bin") == b"one"


def test_the_last_of_two_writers_to_end_wins_whole(store: Store) -> None:
    with store.write("runs/a.bin") as first:
        first.write(b"first, and longer")
        store.put("runs/a.bin", b"second")
    assert store.read("runs/a.bin") == b"first, and longer"


def test_a_table_keeps_its_metadata_and_gives_the_columns_asked_for(store: Store) -> None:
    store.write_table("runs/t.parquet", TABLE.replace_schema_metadata({"kind": "pack"}), {"wat": "x.wat.gz"})
    assert store.read_table("runs/t.parquet").equals(TABLE)
    assert store.read_table("runs/t.parquet").schema.metadata == {b"kind": b"pack", b"wat": b"x.wat.gz"}
    assert store.read_table("runs/t.parquet", ["rows"]).column_names == ["rows"]


def test_equal_tables_are_equal_files(store: Store) -> None:
    store.write_table("runs/one.parquet", TABLE, {"wat": "x"})
    store.write_table("runs/two.parquet", TABLE, {"wat": "x"})
    assert store.read("runs/one.parquet") == store.read("runs/two.parquet")


def test_any_part_of_a_file_can_be_read(store: Store) -> None:
    store.put("runs/a.bin", b"0123456789")
    with store.open_input("runs/a.bin") as file:
        file.seek(6)
        assert file.read(2) == b"67"


def test_what_is_missing_is_named_with_the_store(store: Store) -> None:
    for ask in (store.read, store.size, store.open_input, store.read_table):
        with pytest.raises(StoreError, match=r"runs/none is missing from the store .*:"):
            ask("runs/none")
    assert not store.exists("runs/none")
    assert store.list("nowhere") == []


def test_deleting_twice_is_deleting_once(store: Store) -> None:
    store.put("runs/a.bin", b"one")
    store.delete("runs/a.bin")
    store.delete("runs/a.bin")
    assert not store.exists("runs/a.bin")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "runs/../../up", "runs//a", "runs/", "./a"])
def test_no_path_leads_out_of_the_store(store: Store, path: str) -> None:
    with pytest.raises(StoreError, match="not a path in a store"):
        store.put(path, b"x")
    with pytest.raises(StoreError, match="not a path in a store"):
        store.read(path)


def test_a_file_that_is_not_parquet_is_unreadable(store: Store) -> None:
    store.put("runs/t.parquet", b"<html>")
    with pytest.raises(StoreError, match=r"Cannot read runs/t\.parquet"):
        store.read_table("runs/t.parquet")


def test_opening_makes_the_folder_and_leaves_no_probe_in_it(tmp_path: Path) -> None:
    place = tmp_path / "a b" / ("long" * 40)
    for uri in (str(place), f"file://{tmp_path}/uri"):
        store = Store.open(uri)
        store.put("deep/er/a.bin", b"x")
        assert store.list() == ["deep/er/a.bin"]
    assert [found.name for found in place.iterdir()] == ["deep"]


@pytest.mark.parametrize("uri", ["/proc/shoal", "ftp://host/x", "/dev/null", "s3://"])
def test_a_store_that_cannot_be_written_is_refused_in_one_sentence(uri: str) -> None:
    with pytest.raises(
        StoreError, match=r"^The store .* cannot be used \(.*\): name a folder or bucket to write in\.$"
    ):
        Store.open(uri)


def test_a_store_to_be_read_is_neither_made_nor_probed(tmp_path: Path) -> None:
    assert Store.open(str(tmp_path / "none"), writable=False).list() == []
    assert not (tmp_path / "none").exists()
