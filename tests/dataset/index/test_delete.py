"""Rows that are removed from an index while it is open."""

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dataset.formats.index_files import IndexRecord, read_index_record
from dataset.index.delete import JOURNAL, delete_ids
from dataset.index.filters import parse_filter
from dataset.index.lookup import open_index
from dataset.index.texts import decompress
from dataset.store.store import Store, StoreError
from tests.dataset.index.made import build_folder, build_index, made_release, put_vectors, rows_by_id, vectors_by_id


def checksums_hold(folder: Path, record: IndexRecord) -> None:
    for file in record.files:
        data = (folder / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256), file.path


def texts_of(folder: Path, record: IndexRecord) -> bytes:
    """Decompress all frames."""
    found = []
    for one in (one for segment in record.segments for one in segment.ranges):
        data = (folder / one.files["texts"].path).read_bytes()
        offsets = np.fromfile(folder / one.files["frames"].path, "<u8").tolist()
        found += [decompress(data[start:end]) for start, end in pairwise(offsets)]
    return b"".join(found)


@pytest.mark.parametrize(("kind", "lists"), [("flat", 0), ("sq16", 8), ("rabitq", 8)])
def test_removed_rows_are_gone_from_the_next_search_and_from_the_disk(tmp_path: Path, kind: str, lists: int) -> None:
    release = made_release(tmp_path)
    folder, before = build_index(release, kind=kind, lists=lists)
    index = open_index(folder)
    ids, vectors = vectors_by_id(release)
    rows = rows_by_id(release)
    gone, kept = ids[::4], np.delete(ids, np.s_[::4])
    urls = [rows[one]["URL"].encode() for one in gone.tolist()]
    safe = index.count(parse_filter("safe"))
    index.rows(ids)  # its frames are in the cache

    removed = delete_ids(release.store, release.path("index/ViT-L-14/image"), [*gone.tolist(), 10**9])

    assert removed.rows == len(gone)
    for hits in index.search(vectors, 400):
        assert set(hits.ids.tolist()) == set(kept.tolist())
        assert hits.total == len(kept)
    assert all(row is None for row in index.rows(gone))
    assert not index.embeddings(gone).any()
    assert [row and row["url"] for row in index.rows(kept)] == [rows[one]["URL"] for one in kept.tolist()]
    assert np.array_equal(index.embeddings(kept), vectors[np.isin(ids, kept)].astype(np.float16))
    still_safe = sum(rows[one]["punsafe"] < 0.45 for one in kept.tolist())
    assert still_safe < safe
    assert index.count(parse_filter("safe")) == index.facets()["safe"] == still_safe
    record = read_index_record(release.store, release.path("index/ViT-L-14/image"))
    assert (record.rows, before.rows) == (len(kept), len(ids))
    checksums_hold(folder, record)
    opened = open_index(folder)
    assert [row and row["url"] for row in opened.rows(kept)] == [rows[one]["URL"] for one in kept.tolist()]
    stored = b"".join(row.tobytes() for row in vectors[np.isin(ids, gone)].astype(np.float16))
    every = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not any(row in every for row in [stored[at : at + 32] for at in range(0, len(stored), 32)])
    assert not any(bytes.fromhex(rows[one]["sha256"]) in every for one in gone.tolist())
    assert not [url for url in urls if url in texts_of(folder, record)]


def test_a_removal_that_fails_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_vectors(tmp_path, [120])
    with monkeypatch.context() as patch:
        patch.setattr("dataset.index.plan.RANGE_ROWS", 30)
        folder, record = build_folder(tmp_path, kind="sq16", lists=8)
    assert len(record.segments[0].ranges) == 4
    store = Store.open(str(tmp_path))
    put = Store.put

    def fails(self: Store, path: str, data: bytes) -> None:
        if path.endswith("index.json"):
            raise StoreError("the disk is full")
        put(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", fails)
        with pytest.raises(StoreError):
            delete_ids(store, "index/vectors/image", [3, 50])
    assert store.exists(f"index/vectors/image/{JOURNAL}")
    delete_ids(store, "index/vectors/image", [7])
    record = read_index_record(store, "index/vectors/image")
    assert record.rows == 117
    checksums_hold(folder, record)
    assert not store.exists(f"index/vectors/image/{JOURNAL}")


def test_removing_nothing_changes_nothing(tmp_path: Path) -> None:
    put_vectors(tmp_path, [60])
    build_folder(tmp_path)
    store = Store.open(str(tmp_path))
    before = store.read("index/vectors/image/index.json")
    assert delete_ids(store, "index/vectors/image", []).rows == 0
    assert delete_ids(store, "index/vectors/image", [900]).rows == 0
    assert store.read("index/vectors/image/index.json") == before
