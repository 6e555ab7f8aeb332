"""A shard is complete or absent, can be read by programs for img2dataset's shards, and yields one item per success."""

import gc
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import webdataset  # type: ignore[import-untyped]

from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import LostSample, Sample, ShardError, read_samples, sample_key
from dataset.pictures.outcomes import PICTURE_FAULTS, TRANSIENT, Outcome
from dataset.pictures.picture import Picture
from dataset.store.store import Store, StoreError

CAPTION = 'Zwei rote Würfel\tund "ein" Ball 🔴'


def row(position: int, outcome: Outcome = Outcome.SUCCESS, size: int = 3_000) -> LinkRow:
    picture = Picture(b"\xff\xd8\xff" + bytes([position % 256]) * size, "jpg", 384, 256, 600, 400, "ab" * 32, "cd" * 16)
    return LinkRow(
        position=position,
        pack=11,
        pack_row=position * 2,
        attempt=1,
        final=True,
        language="de",
        url=f"http://pictures.test/{position}.jpg",
        caption=CAPTION,
        outcome=outcome,
        reason=None if outcome is Outcome.SUCCESS else "its reason",
        http_status=200,
        content_type="image/jpeg",
        final_url=f"http://pictures.test/{position}.jpg",
        fetch_seconds=0.25,
        bytes_received=9_000,
        picture=picture if outcome is Outcome.SUCCESS else None,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def write(store: Store, *rows: LinkRow, output: str = "shards/a") -> None:
    with ShardWriter(store, output, job_id=42, subset="multi", metadata={"rules": "{}"}) as shard:
        for each in rows:
            shard.add(each)
        shard.publish()


def test_samples_come_back_as_they_were_written(store: Store) -> None:
    write(store, row(2), row(0), row(1, Outcome.NOT_FOUND))
    samples = list(read_samples(store, "shards/a"))
    assert [sample.key for sample in samples] == ["000000004200002", "000000004200000"]
    first = row(2)
    assert first.picture is not None
    assert samples[0] == Sample(
        key="000000004200002",
        image=first.picture.data,
        url=first.url,
        caption=CAPTION,
        language="de",
        subset="multi",
        pack=11,
        pack_row=4,
        width=384,
        height=256,
        original_width=600,
        original_height=400,
        sha256=first.picture.sha256,
        md5=first.picture.md5,
        final_url=first.final_url,
    )


def test_the_table_has_a_row_for_every_link_with_the_words_of_img2dataset(store: Store) -> None:
    write(store, row(1, Outcome.NOT_FOUND), row(2, Outcome.UNDECODABLE), row(0))
    table = store.read_table("shards/a.parquet")
    rows = table.to_pylist()
    assert [each["status"] for each in rows] == ["success", "failed_to_download", "failed_to_resize"]
    assert [each["error_message"] for each in rows] == [None, "its reason", "its reason"]
    assert [each["outcome"] for each in rows] == ["success", "not_found", "undecodable"]
    assert [each["width"] for each in rows] == [384, None, None]
    assert table.schema.metadata[b"rules"] == b"{}"
    img2dataset = {"url", "caption", "key", "status", "error_message", "width", "height"}
    assert img2dataset | {"original_width", "original_height", "sha256"} <= set(table.column_names)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves the file open
def test_webdataset_reads_a_shard(store: Store, tmp_path: Path) -> None:
    write(store, *(row(position) for position in range(20)))
    url = f"file:{tmp_path}/store/shards/a.tar"
    samples = list(webdataset.WebDataset(url, shardshuffle=False).to_tuple("__key__", "jpg", "txt", "json"))
    assert len(samples) == 20
    key, image, caption, about = samples[3]
    assert (key, image, caption.decode()) == ("000000004200003", row(3).picture.data, CAPTION)  # type: ignore[union-attr]
    assert json.loads(about)["original_width"] == 600
    gc.collect()  # its open file is this test's to forgive


def test_a_number_that_is_not_finite_is_null_in_the_json_member(store: Store) -> None:
    types = {"punsafe": "double", "similarity": "float"}
    packed = '{"punsafe": NaN, "similarity": 0.5}'
    with ShardWriter(store, "shards/a", job_id=42, subset="multi", extra=types) as shard:
        shard.add(replace(row(0), extra=packed))
        shard.publish()
    with tarfile.open(fileobj=io.BytesIO(store.read("shards/a.tar"))) as tar:
        member = tar.extractfile("000000004200000.json")
        assert member is not None
        about = json.loads(member.read(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (about["punsafe"], about["similarity"]) == (None, 0.5)


def test_the_tar_is_one_that_tar_reads(store: Store) -> None:
    write(store, row(0, size=512 - 3), row(1, size=1))
    with tarfile.open(fileobj=io.BytesIO(store.read("shards/a.tar"))) as tar:
        members = tar.getmembers()
        assert [member.name for member in members[:3]] == [f"000000004200000.{end}" for end in ("jpg", "txt", "json")]
        assert {(member.mode, member.uid, member.mtime) for member in members} == {(0o444, 0, 0)}
        assert members[0].size == 512


def test_a_shard_that_is_left_unfinished_leaves_nothing(store: Store) -> None:
    with ShardWriter(store, "shards/a", job_id=1, subset="en") as shard:
        shard.add(row(0))
    with pytest.raises(ShardError):
        write(store, row(0), row(100_000), output="shards/b")
    assert store.list() == []


def test_a_table_that_cannot_be_written_takes_the_tar_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("full")

    monkeypatch.setattr(store, "write_table", refuse)
    with pytest.raises(StoreError):
        write(store, row(0))
    assert store.list() == []


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _no_bytes(data: bytes) -> bytes:
    return b""


def _damaged_header(data: bytes) -> bytes:
    return data[:10_000] + b"\xee" * 2_000 + data[12_000:]


@pytest.mark.parametrize("damage", [_cut, _no_bytes, _damaged_header])
def test_a_damaged_tar_gives_an_item_for_every_success_all_the_same(
    store: Store, damage: Callable[[bytes], bytes]
) -> None:
    write(store, *(row(position) for position in range(10)))
    store.put("shards/a.tar", damage(store.read("shards/a.tar")))
    items = list(read_samples(store, "shards/a"))
    assert sorted(item.key for item in items) == [sample_key(42, position) for position in range(10)]
    lost = [item for item in items if isinstance(item, LostSample)]
    assert lost
    assert all(item.reason for item in lost)


def test_a_tar_or_a_table_that_is_missing_is_an_error(store: Store) -> None:
    write(store, row(0))
    store.delete("shards/a.tar")
    with pytest.raises(ShardError, match=r"Cannot read shards/a\.tar.*tracker manifest"):
        list(read_samples(store, "shards/a"))
    with pytest.raises(ShardError):
        list(read_samples(store, "shards/none"))
    store.put("shards/b.parquet", b"no table")
    with pytest.raises(ShardError):
        list(read_samples(store, "shards/b"))


def test_a_position_without_a_key_is_refused(store: Store) -> None:
    with pytest.raises(ShardError, match="100000"):
        sample_key(1, 100_000)


def test_an_outcome_is_passing_or_the_pictures_but_not_both() -> None:
    assert not TRANSIENT & PICTURE_FAULTS
    assert Outcome.SUCCESS not in TRANSIENT | PICTURE_FAULTS
