"""The store on S3, over real HTTP: failures of a bucket, and that no file is lost or incomplete."""

import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataset.formats.shards import read_samples
from dataset.store import object_store
from dataset.store.object_store import open_s3
from dataset.store.store import UPLOAD_BYTES, Store, StoreError
from tests.dataset.formats.test_shards import row
from tests.dataset.formats.test_shards import write as write_shard
from tests.object_store import CUT_DOWN, CUT_UP, DENIED, EXPIRED, INTERNAL, S3, SLOW_DOWN, Fault, serving
from tracker.database.database import Connection
from tracker.storage import object_store as tracker_object_store
from tracker.storage.manifest import write_manifest

URI = "s3://crawl/run"
BIG = np.random.default_rng(7).bytes(21 << 20)  # three parts of pyarrow's 10 MB


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with serving() as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYOFTHEENVIRONMENT")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(object_store, "REQUEST_TIMEOUT_SECONDS", 2.0)
        monkeypatch.setattr(object_store, "MAX_ATTEMPTS", 3)  # a pause is drawn from (0, 1) s, then (0, 2) s
        yield served


@pytest.fixture
def store(s3: S3) -> Store:
    opened = Store.open(URI)
    s3.asked.clear()
    return opened


def test_a_bucket_is_opened_and_nothing_is_left_in_it(s3: S3) -> None:
    Store.open(URI)
    assert set(s3.stored()) <= {"run/"}
    assert s3.keys == {"KEYOFTHEENVIRONMENT"}


def test_a_small_file_takes_one_request_and_a_big_one_its_parts(s3: S3, store: Store) -> None:
    store.put("small", b"x")
    assert [asked.method for asked in s3.asked] == ["PUT"]
    store.put("empty", b"")
    store.put("big", BIG)
    assert sum("partNumber" in asked.query for asked in s3.asked) == 3
    assert (store.read("big"), store.read("empty"), store.size("big")) == (BIG, b"", len(BIG))
    with store.open_input("big") as file:
        file.seek(20 << 20)
        assert file.read(9) == BIG[20 << 20 : (20 << 20) + 9]
    assert store.list() == ["big", "empty", "small"]
    store.delete("big")
    store.delete("big")
    assert not store.exists("big")
    with pytest.raises(StoreError, match="big is missing from the store s3://crawl/run"):
        store.read("big")


def test_packs_shards_parts_and_the_manifest_come_back_as_they_went(s3: S3, store: Store, admin: Connection) -> None:
    table = pa.table({"url": ["a", "b"], "similarity": pa.array([0.3, 0.4], pa.float32())})
    store.write_table("packs/a.parquet", table, {"wat": "1.wat.gz"})
    assert store.read_table("packs/a.parquet", ["url"]).schema.metadata == {b"wat": b"1.wat.gz"}
    write_shard(store, *[row(i, size=9_000) for i in range(1_200)])  # a tar of 12 MB
    s3.fail(CUT_DOWN, times=1, method="GET", path=".tar")
    pictures = [row(i, size=9_000).picture for i in range(1_200)]
    assert [sample.image for sample in read_samples(store, "shards/a")] == [p.data for p in pictures if p]  # type: ignore[union-attr]
    assert write_manifest(admin, URI) == 0
    assert store.read_table("manifest.parquet").num_rows == 0


@pytest.mark.parametrize("fault", [INTERNAL, SLOW_DOWN, CUT_UP], ids=["500", "SlowDown", "cut"])
@pytest.mark.parametrize(
    "which",
    [
        {"method": "PUT", "path": "small"},
        {"method": "PUT", "query": "partNumber=2"},
        {"method": "POST", "query": "uploadId"},
    ],
    ids=["whole", "part", "completion"],
)
def test_an_upload_continues_after_a_transient_fault(s3: S3, store: Store, fault: Fault, which: dict[str, str]) -> None:
    s3.fail(fault, 1, **which)
    path, data = ("small", b"small") if "path" in which else ("big", BIG)
    store.put(path, data)
    assert store.read(path) == data


@pytest.mark.parametrize("fault", [INTERNAL, SLOW_DOWN, CUT_DOWN], ids=["500", "SlowDown", "cut"])
def test_a_download_continues_after_a_transient_fault(s3: S3, store: Store, fault: Fault) -> None:
    store.put("big", BIG)
    s3.fail(fault, times=1, method="GET")
    assert store.read("big") == BIG


@pytest.mark.parametrize(
    ("fault", "which", "sentence"),
    [
        (SLOW_DOWN, {"method": "PUT", "path": "small"}, r"SLOW_DOWN.*: it was retried .* try again later\.$"),
        (CUT_UP, {"method": "PUT", "path": "small"}, r"NETWORK_CONNECTION.*: it was retried .* later\.$"),
        (INTERNAL, {"query": "partNumber=2"}, r"INTERNAL_FAILURE.*: it was retried .* later\.$"),
        (SLOW_DOWN, {"method": "POST", "query": "uploadId"}, r"SLOW_DOWN.*: it was retried .* later\.$"),
        (
            EXPIRED,
            {"method": "PUT", "path": "small"},
            r"ExpiredToken.*: the credentials .*: renew them\.$",
        ),
        (EXPIRED, {"query": "partNumber=2"}, r"ExpiredToken.*: the credentials .*: renew them\.$"),
        (DENIED, {"method": "PUT", "path": "small"}, r"ACCESS_DENIED.*: let these credentials read, write.*\.$"),
    ],
    ids=["whole SlowDown", "whole cut", "part 500", "completion SlowDown", "expired", "expired halfway", "denied"],
)
def test_an_upload_that_fails_for_good_says_so_once_and_leaves_the_old_file(
    s3: S3, store: Store, fault: Fault, which: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = ("small", b"new") if "path" in which else ("big", BIG)
    store.put(path, b"old")
    monkeypatch.setattr(object_store, "MAX_ATTEMPTS", 1)
    hasty = Store.open(URI)
    s3.fail(fault, None, **which)
    with pytest.raises(StoreError, match=rf"^Cannot write {path} in the store s3://crawl/run \(.*{sentence}"):
        hasty.put(path, data)
    s3.heal()
    assert store.read(path) == b"old"
    assert store.list() == [path]


@pytest.mark.parametrize("fault", [SLOW_DOWN, CUT_DOWN, DENIED])
def test_a_download_that_fails_for_good_gives_nothing(
    s3: S3, store: Store, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("big", BIG)
    monkeypatch.setattr(object_store, "MAX_ATTEMPTS", 1)
    hasty = Store.open(URI)
    s3.fail(fault, method="GET")
    with pytest.raises(StoreError, match=r"^Cannot read big in the store s3://crawl/run \([^\n]*\.$"):
        hasty.read("big")


def test_a_spool_that_cannot_be_read_to_its_end_leaves_no_half_object(
    s3: S3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    class Broken:
        def __init__(self, file: object) -> None:
            self.file, self.reads = file, 0

        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads == 2:
                raise OSError("the disk is broken")
            return bytes(self.file.read(size))  # type: ignore[attr-defined]

    def open_broken(path: Path, mode: str = "r", **more: object) -> object:
        file = opened(path, mode, **more)  # type: ignore[call-overload]
        return Broken(file) if mode == "rb" else file

    monkeypatch.setattr(Path, "open", open_broken)
    with pytest.raises(StoreError, match="the disk is broken"):
        store.put("half", bytes(UPLOAD_BYTES + 1))
    monkeypatch.undo()
    assert "run/half" not in s3.stored()


def test_a_silent_server_times_out(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("SHOAL_S3_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(object_store, "MAX_ATTEMPTS", 1)
        monkeypatch.setattr(object_store, "REQUEST_TIMEOUT_SECONDS", 1.0)
        with pytest.raises(StoreError, match=r"^The store s3://crawl/run cannot be used \(.*\): it was retried"):
            Store.open(URI)


@pytest.mark.parametrize("fault", [DENIED, EXPIRED, Fault(404, "NoSuchBucket")])
def test_a_bucket_that_is_not_ours_is_refused_in_one_sentence(s3: S3, fault: Fault) -> None:
    s3.fail(fault)
    with pytest.raises(StoreError, match=r"^The store s3://crawl/run cannot be used \([^\n]*\): [^\n]*\.$"):
        Store.open(URI)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("s3://AKIA:secret@crawl/run", "put keys into AWS_"),
        ("s3://crawl/run?access_key=x", "put keys into AWS_"),
        ("s3:///run", "begins with its bucket"),
        ("s3://crawl/run?endpoint_override=ftp://x", "is no endpoint"),
    ],
)
def test_a_uri_that_cannot_be_meant_is_refused_without_its_secret(uri: str, why: str) -> None:
    with pytest.raises(StoreError, match=why) as refusal:
        Store.open(uri)
    assert "secret" not in str(refusal.value)


def test_the_endpoint_is_the_uris_then_ours_then_awss() -> None:
    names = {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://aws:1"}
    assert open_s3(URI, names)[0].equals(open_s3(f"{URI}?endpoint_override=http://aws:1", names)[0])
    ours = {**names, "SHOAL_S3_ENDPOINT": "https://ours"}
    assert open_s3(URI, ours)[0].equals(open_s3(f"{URI}?endpoint_override=ours&scheme=https", names)[0])
    assert not open_s3(URI, ours)[0].equals(open_s3(URI, names)[0])
    assert open_s3(URI, names)[0].region == "eu-west-1"
    assert open_s3(f"{URI}?region=us-west-2", names)[1] == "crawl/run"


def test_a_profiles_keys_are_found_in_the_usual_file(s3: S3, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[swarm]\naws_access_key_id = KEYOFTHEPROFILE\naws_secret_access_key = secret\n"
    )
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("AWS_ACCESS") and k != "AWS_SECRET_ACCESS_KEY"
    }
    program = f"from dataset.store.store import Store; Store.open({URI!r}).put('a', b'x')"
    subprocess.run(  # a process of its own: the SDK reads the file once
        [sys.executable, "-c", program], check=True, timeout=60, env={**environment, "AWS_PROFILE": "swarm"}
    )
    assert s3.keys == {"KEYOFTHEPROFILE"}
    assert s3.stored()["run/a"] == b"x"


def test_tracker_and_dataset_open_a_bucket_by_the_same_rules() -> None:
    ours, theirs = (inspect.getsource(module).partition('"""\n')[2] for module in (object_store, tracker_object_store))
    assert ours == theirs
