"""Apply: no file contains a removed row any more, and everything else is unchanged."""

import hashlib
import io
import shutil
import tarfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataset.errors import DatasetError
from dataset.formats.embeddings import read_embeddings
from dataset.formats.index_files import read_index_record
from dataset.formats.release_embeddings import find_embeddings
from dataset.formats.releases import CHECKSUMS, FileKind, open_release, recording_path
from dataset.formats.side_tables import read_side_tables
from dataset.formats.takedowns import Entry, applying_plan
from dataset.index.lookup import open_index
from dataset.index.texts import decompress
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.publish.trace import trace_row
from dataset.select.pictures import find_tars
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store, StoreError
from dataset.takedown.apply import AppliedTakedowns, apply_takedowns
from dataset.takedown.requests import file_request
from dataset.takedown.verify import verify_takedowns
from tests.embeddings import vector
from tests.takedowns import BATCH, PER_SHARD, make_captions, make_crawl, make_release, sample

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
NAMED = {"url": 3, "hash": 24, "sha256": 45, "md5": 66, "sha1": 87, "pdq": 108}
"""The links that are named, by kind of entry; each is of another shard."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_release(make_crawl(folder), index="flat")
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    shutil.copytree(made, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def entry(kind: str, seed: int) -> Entry:
    row = sample(seed)
    value = {"url": row["URL"], "hash": str(row["hash"]), "pdq": row["pdq"].hex(), "host": row["final_host"]}
    return Entry(kind=kind, value=value.get(kind) or row[kind])


def file_all(store: Store) -> None:
    for kind, seed in NAMED.items():
        file_request(store, [entry(kind, seed)], f"by {kind}")


def apply(store: Store, **options: Any) -> AppliedTakedowns:
    done = apply_takedowns(store, "laion", threads=2, now=NOW, **options)
    assert done is not None
    return done


def digests(store: Store) -> dict[str, str]:
    return {path: hashlib.sha256(store.read(path)).hexdigest() for path in store.list()}


def texts_of(data: bytes, path: str) -> bytes:
    """All values of a file, decoded."""
    if path.endswith(".parquet"):
        table = pq.ParquetFile(io.BytesIO(data)).read()
        return repr([table.to_pylist(), table.schema.metadata]).encode()
    if path.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return b"".join(one.name.encode() + tar.extractfile(one).read() for one in tar)  # type: ignore[union-attr]
    return data


PRIVATE = ("deny/", "takedowns/")


def frames_of(store: Store, folder: str) -> bytes:
    """The texts of an index, decompressed."""
    found = b""
    for segment in read_index_record(store, folder).segments:
        for one in segment.ranges:
            data = store.read(f"{folder}/{one.files['texts'].path}")
            offsets = np.frombuffer(store.read(f"{folder}/{one.files['frames'].path}"), "<u8").tolist()
            found += b"".join(decompress(data[start:end]) for start, end in pairwise(offsets))
    return found


def test_an_index_finds_no_removed_row_from_the_next_search_and_has_none_in_its_files(store: Store) -> None:
    folder = "releases/laion/index/ViT-L-14/image"
    index = open_index(Path(store.uri) / folder)
    queries = np.stack([vector("image", int(sample(seed)["key"])) for seed in NAMED.values()]).astype(np.float32)
    before = [int(hits.ids[0]) for hits in index.search(queries, 1)]
    urls = [sample(seed)["URL"].encode() for seed in NAMED.values()]
    assert all(url in frames_of(store, folder) for url in urls)
    file_all(store)
    apply(store)
    assert not {int(one) for hits in index.search(queries, 120) for one in hits.ids} & set(before)
    assert not any(url in frames_of(store, folder) for url in urls)
    assert read_index_record(store, folder).rows == 6 * PER_SHARD - len(NAMED)


def test_no_file_has_anything_of_a_removed_row_any_more_and_all_others_are_there(store: Store) -> None:
    release = open_release(store, "laion")
    named = [sample(seed) for seed in NAMED.values()]
    before = {path: texts_of(store.read(path), path) for path in store.list()}
    marks = [mark for row in named for mark in (row["URL"], row["md5"], row["sha256"], row["sha1"])]
    keys = [row["key"] for row in named]
    assert all(any(mark.encode() in data for data in before.values()) for mark in (*marks, *keys))
    file_all(store)
    done = apply(store)
    assert done.removed == dict.fromkeys((f"by {kind}" for kind in sorted(NAMED)), 1)
    for path in store.list():
        if not path.startswith(PRIVATE):
            said = texts_of(store.read(path), path)
            assert [mark for mark in marks if mark.encode() in said] == [], path
            if not path.endswith((".removed.json", ".parquet")):
                assert [key for key in keys if key.encode() in said] == [], path
    live = open_release(store, "laion")
    tables = [store.read_table(live.path(file.path)) for file in live.files(FileKind.DATA)]
    urls = {url for table in tables for url in table["URL"].to_pylist()}
    assert urls == {sample(seed)["URL"] for seed in range(6 * PER_SHARD)} - {row["URL"] for row in named}
    assert release.record.rows != live.record.rows


def test_files_without_a_removed_row_keep_their_bytes(store: Store) -> None:
    before = digests(store)
    file_request(store, [entry("url", NAMED["url"])], "privacy")
    apply(store)
    after = digests(store)
    changed = {path for path in before if after.get(path) != before[path]}
    release = open_release(store, "laion")
    touched = [file.path for file in release.files(FileKind.DATA) if file.rows < file.last_id + 1 - file.first_id]
    assert len(touched) == 1
    tail = touched[0].partition("/")[2]
    expected = {
        f"releases/laion/{kind}/{tail}" for kind in ("data", "extended", "source", "stats/hosts", "captions/1-v1")
    }
    safe = [path for path in changed if "/variants/" in path]
    expected |= {*safe, f"releases/laion/stats/counts/{tail.removesuffix('.parquet')}.counts"}
    expected |= {f"releases/laion/{name}" for name in (
        "README.md", "SHA256SUMS", "croissant.json", "hosts.parquet", "release.json", "side_tables.json",
        "captions/SHA256SUMS")}  # fmt: skip
    plots = {path for path in changed if "/plots/" in path}
    vectors = {path for path in changed if "laion/embeddings/" in path}
    index = {path for path in changed if "laion/index/" in path}
    crawl = {path for path in changed if path.startswith("crawl/")}
    work = {path for path in changed if path.startswith("indexing/laion/v1/")}
    assert changed == expected | plots | vectors | crawl | index | work
    assert len(vectors) == 2 * 5  # index.json, SHA256SUMS and three files, of each model
    assert {path.split("/")[1] for path in crawl} == {"shards", "parts", "packs", "embeddings"}
    assert all("/0." in path or "/0000000001." in path for path in crawl)


def test_a_row_group_without_a_removed_row_comes_out_in_its_own_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataset.formats.release_parquet.ROW_GROUP_ROWS", 10)
    monkeypatch.setattr("dataset.publish.files.ROW_GROUP_ROWS", 10)
    publish(store, Request(name="grouped", inputs=[InputName(".", "crawl")], batch=BATCH))
    release = open_release(store, "grouped")
    ids = {file.subset: file for file in release.files(FileKind.DATA)}
    path = release.path(ids["en"].path)
    rows = store.read_table(path)
    file_request(store, [Entry(kind="hash", value=str(rows["hash"][15].as_py()))], "privacy")
    before = column_bytes(store.read(path))
    apply_takedowns(store, "grouped", now=NOW)
    after = column_bytes(store.read(path))
    sizes = [len(rows) for rows in (before, after)]
    assert sizes == [4, 4]
    assert [at for at in range(4) if before[at] != after[at]] == [1]


def column_bytes(data: bytes) -> list[list[bytes]]:
    """The bytes of each column of each row group."""
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    found = []
    for at in range(metadata.num_row_groups):
        columns = [metadata.row_group(at).column(number) for number in range(metadata.num_columns)]
        starts = [one.dictionary_page_offset or one.data_page_offset for one in columns]
        found.append([data[start : start + one.total_compressed_size]
                      for start, one in zip(starts, columns, strict=True)])  # fmt: skip
    return found


def test_the_new_version_says_what_was_removed_and_its_files_have_their_checksums(store: Store) -> None:
    file_all(store)
    file_request(store, [entry("url", 4), entry("sha256", 5)], "privacy")
    apply(store)
    release = open_release(store, "laion")
    record = release.record
    assert (record.version, record.previous) == ("2.0.0", "1.0.0")
    assert record.removed["privacy"] == 2
    assert sum(record.removed.values()) == 8
    assert store.exists("releases/laion/history/1.0.0.json")
    for line in store.read(release.path(CHECKSUMS)).decode().splitlines():
        digest, _, path = line.partition("  ")
        assert hashlib.sha256(store.read(release.path(path))).hexdigest() == digest, path
    for file in record.files:
        assert hashlib.sha256(store.read(release.path(file.path))).hexdigest() == file.sha256, file.path
    for table in read_side_tables(release).values():
        assert table.version == "2.0.0"
        assert all(
            hashlib.sha256(store.read(release.path(file.path))).hexdigest() == file.sha256 for file in table.files
        )
    assert "Removed since: 2 (privacy)" in store.read(release.path("README.md")).decode()


def test_embeddings_lose_the_rows_and_their_record_still_adds_up(store: Store) -> None:
    before = find_embeddings(open_release(store, "laion"), "second", BATCH)
    file_all(store)
    apply(store)
    release = open_release(store, "laion")
    after = find_embeddings(release, "second", BATCH)
    assert before is not None
    assert after is not None
    assert after.rows == before.rows - len(NAMED)
    assert after.rows + sum(after.missing.values()) == sum(release.record.rows.values())
    assert after.source_rows == after.rows + sum(after.left_out.values())
    folder = release.path(f"embeddings/second/{BATCH}")
    for file in after.files:
        assert hashlib.sha256(store.read(f"{folder}/{file.path}")).hexdigest() == file.sha256
    ids = [store.read_table(f"{folder}/metadata/metadata_{at:05d}.parquet")["id"].to_pylist() for at in range(3)]
    vectors = [np.load(io.BytesIO(store.read(f"{folder}/img_emb/img_emb_{at:05d}.npy"))) for at in range(3)]
    assert [len(some) for some in ids] == [len(some) for some in vectors]
    alive = {row for file in release.files(FileKind.DATA)
             for row in store.read_table(release.path(file.path), ["id"])["id"].to_pylist()}  # fmt: skip
    assert {row for some in ids for row in some} == alive


def test_the_parts_of_a_crawl_can_be_published_again_and_the_row_stays_out(store: Store) -> None:
    file_all(store)
    apply(store)
    publish(store, Request(name="other", inputs=[InputName(".", "crawl")], batch=BATCH))
    assert sum(open_release(store, "other").record.rows.values()) == 6 * PER_SHARD - len(NAMED)
    images, texts, about = read_embeddings(store, "crawl/parts/0000000001")
    assert len(images) == len(texts) == len(about) == PER_SHARD - 1


def test_a_removed_row_leads_nowhere_any_more(store: Store) -> None:
    release = open_release(store, "laion")
    tables = pa.concat_tables(
        store.read_table(release.path(file.path), ["id", "URL"]) for file in release.files(FileKind.DATA, subset="en")
    )
    row_id = dict(zip(tables["URL"].to_pylist(), tables["id"].to_pylist(), strict=True))[sample(3)["URL"]]
    assert trace_row(release, row_id, store).shard == "crawl/shards/0"
    file_request(store, [entry("url", 3)], "privacy")
    apply(store)
    with pytest.raises(DatasetError, match="was removed"):
        trace_row(open_release(store, "laion"), row_id, store)


def test_a_host_takes_all_its_rows_and_a_second_call_has_nothing_to_do(store: Store) -> None:
    host = sample(7)["final_host"]
    rows = [row for row in map(sample, range(6 * PER_SHARD)) if row["final_host"] == host]
    file_request(store, [Entry(kind="host", value=host)], "site")
    assert apply(store).removed == {"site": len(rows)}
    assert apply_takedowns(store, "laion", now=NOW) is None
    files = digests(store)
    assert apply(store, again=True).removed == {}
    assert {path: digest for path, digest in digests(store).items() if not path.startswith("takedowns/log")} == {
        path: digest for path, digest in files.items() if not path.startswith("takedowns/log")
    }


def test_entries_that_no_row_is_on_make_no_version(store: Store) -> None:
    file_request(store, [Entry(kind="hash", value="1")], "privacy")
    done = apply(store)
    assert (done.version, done.removed, done.lists) == ("1.0.0", {}, 1)
    assert open_release(store, "laion").record.version == "1.0.0"


def test_a_second_takedown_counts_on_and_makes_the_next_version(store: Store) -> None:
    for seed in (0, 1):
        file_request(store, [entry("url", seed)], "privacy")
        apply(store)
    record = open_release(store, "laion").record
    assert (record.version, record.previous, record.removed) == ("3.0.0", "2.0.0", {"privacy": 2})


def test_a_release_whose_crawl_is_gone_loses_the_row_all_the_same(store: Store) -> None:
    for path in store.list("crawl"):
        store.delete(path)
    store.delete("manifest.parquet")
    file_request(store, [entry("md5", 0)], "privacy")
    assert apply(store).removed == {"privacy": 1}


def test_what_a_call_left_that_was_ended_while_it_deleted_its_work_means_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_request(store, [entry("url", 0)], "privacy")
    deleted: list[str] = []

    def delete(self: Store, path: str) -> None:
        if path.startswith("takedowns/applying") and len(deleted) > 20:
            raise StoreError("ended")
        deleted.append(path)
        original(self, path)

    original = Store.delete
    monkeypatch.setattr(Store, "delete", delete)
    with pytest.raises(StoreError, match="ended"):
        apply(store)
    monkeypatch.undo()
    assert open_release(store, "laion").record.version == "2.0.0"
    assert store.list("takedowns/applying") != []
    assert apply_takedowns(store, "laion", now=NOW) is None
    assert store.list("takedowns/applying") == []
    file_request(store, [entry("url", 1)], "privacy")
    assert apply(store).removed == {"privacy": 1}


def test_publish_and_apply_never_make_a_version_at_one_time(store: Store) -> None:
    file_request(store, [entry("url", 0)], "privacy")
    store.put(recording_path("laion"), b"")
    with pytest.raises(DatasetError, match="making a version just now"):
        apply(store)
    assert not store.exists(applying_plan("laion"))
    store.delete(recording_path("laion"))
    store.put(applying_plan("laion"), b"{}")
    with pytest.raises(DatasetError, match="A takedown is being applied"):
        publish(store, Request(name="laion", inputs=[InputName(".", "crawl")], batch="later"))
    assert not store.exists(recording_path("laion"))


def test_what_was_joined_from_an_older_version_is_refused(store: Store) -> None:
    old = open_release(store, "laion")
    file_request(store, [entry("url", 0)], "privacy")
    apply(store)
    with pytest.raises(DatasetError, match="start again"):
        make_captions(store, old)


def test_a_file_that_loses_all_rows_of_a_group_still_belongs_to_its_companions(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataset.formats.release_parquet.ROW_GROUP_ROWS", 10)
    monkeypatch.setattr("dataset.publish.files.ROW_GROUP_ROWS", 10)
    publish(store, Request(name="grouped", inputs=[InputName(".", "crawl")], batch=BATCH))
    release = open_release(store, "grouped")
    file = next(release.files(FileKind.DATA, subset="multi"))
    hashes = store.read_table(release.path(file.path), ["hash"])["hash"].to_pylist()
    file_request(store, [Entry(kind="hash", value=str(one)) for one in hashes[10:20]], "privacy")
    apply_takedowns(store, "grouped", now=NOW)
    rows = ReleaseRows.open(open_release(store, "grouped"))
    groups = [group for group in rows.row_groups() if group.file.path == file.path]
    assert [len(rows.read(group, ["URL", "crawl"])) for group in groups] == [10, 10, 10]
    file_request(store, [Entry(kind="hash", value=str(one)) for one in hashes], "privacy")
    done = apply_takedowns(store, "grouped", now=NOW)
    assert done is not None
    assert done.removed == {"privacy": 30}
    assert next(open_release(store, "grouped").files(FileKind.DATA, subset="multi")).rows == 0
    assert verify_takedowns(store, "grouped").is_clean
    kept = store.read_table("manifest.parquet")
    store.write_table("manifest.parquet", kept.filter(pc.not_equal(kept["kind"], "shard")))  # their tars are deleted
    tars = find_tars(release, release.record.inputs[0], np.array([101, 102]))  # 101 has no row left
    assert [tar.job for tar in tars] == [102]
    store.write_table("manifest.parquet", kept)
    with pytest.raises(DatasetError, match="published_before: 80"):  # what is left of the parts is as the manifest says
        publish(store, Request(name="grouped", inputs=[InputName(".", "crawl")], batch="later"))
