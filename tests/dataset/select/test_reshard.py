"""Resharding a selection, from the tars of shards in a real store to tars that webdataset reads."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from webdataset.tariterators import group_by_keys, tar_file_expander  # type: ignore[import-untyped]

from dataset.formats.releases import FileKind, Release, open_release
from dataset.main import app
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.select.errors import SelectError
from dataset.select.pictures import read_kept
from dataset.select.reshard import ReshardRecord, reshard
from dataset.select.select import Request, Selection
from dataset.side_tables.join import join_tables
from dataset.side_tables.rows import ReleaseRows
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.store.store import Store
from tests.manifests import put_manifest
from tests.parts import MadeStore, in_parts, make_pair


def picture_of(sha256: str) -> bytes:
    """The bytes that stand for a picture."""
    return bytes.fromhex(sha256) * 40


def put_tar(store: Store, path: str, rows: list[dict[str, Any]]) -> int:
    """Write the tar of a shard or part; return its bytes."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for row in rows:
            for ending, content in (("webp", picture_of(row["sha256"])), ("txt", b"text"), ("json", b"{}")):
                member = tarfile.TarInfo(f"{row['key']}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    store.put(f"{path}.tar", data.getvalue())
    return len(data.getvalue())


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """200 rows of 4 parts: two shards keep their tar, one part has its own, one has lost its pictures."""
    made = MadeStore(Store.open(str(tmp_path / "store")))
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(200)]))
    shards = []
    for at, part in enumerate(made.listed):
        rows = made.store.read_table(f"{part['path']}.parquet").to_pylist()
        shard = {"kind": "shard", "run": "crawl", "path": rows[0]["shard"], "job": part["job"], "tar_bytes": 1}
        if at < 2:
            put_tar(made.store, rows[0]["shard"], rows)
        else:
            shard["tar_bytes"] = 0
        if at == 2:
            part["tar_bytes"] = put_tar(made.store, str(part["path"]), rows)
        part["job"] = 100 + at  # a part's job is not its shard's
        shards.append(shard)
    put_manifest(made.store, [*shards, *made.listed])
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", "crawl")]))
    return open_release(made.store, "laion")


@pytest.fixture
def selection(release: Release, tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "selection"))
    Selection(ReleaseRows.open(release), Request(where="WIDTH >= 300", rows_per_file=60)).write(store)
    return store


def run(release: Release, selection: Store, out: Path, **how: Any) -> ReshardRecord:
    return reshard(release, selection, Store.open(str(out)), samples_per_shard=30, **how)


def rows_of(selection: Store) -> dict[int, dict[str, Any]]:
    paths = [path for path in selection.list() if path.endswith(".parquet")]
    return {row["id"]: row for path in paths for row in selection.read_table(path).to_pylist()}


def test_kept_pictures_become_shuffled_tars_and_the_others_a_list(
    release: Release, selection: Store, tmp_path: Path
) -> None:
    record = run(release, selection, tmp_path / "tars")
    rows = rows_of(selection)
    found = []
    for tar in record.tars:
        path = tmp_path / "tars" / tar.path
        data = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (tar.bytes, tar.sha256)
        with path.open("rb") as stream:
            samples = list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
        assert len(samples) == tar.samples <= 30
        for sample in samples:
            row = rows[int(sample["__key__"])]
            assert json.loads(sample["json"]) == row
            assert sample["txt"].decode() == row["TEXT"]
            assert sample["webp"] == picture_of(row["sha256"])
            found.append(row["id"])
    listed = pq.read_table(tmp_path / "tars" / "missing.parquet")["id"].to_pylist()
    assert sorted(found + listed) == sorted(rows)
    assert (record.samples, record.missing, record.removed) == (len(found), len(listed), 0)
    assert 20 < len(listed) < 51
    assert found != sorted(found)


def test_kept_pictures_are_read_by_id(release: Release) -> None:
    rows = [
        row
        for file in release.files(FileKind.DATA)
        for row in release.store.read_table(release.path(file.path)).to_pylist()
    ]
    kept = read_kept(release, np.array(sorted(row["id"] for row in rows), np.int64))
    assert 100 < len(kept) < 200
    assert all(kept[row["id"]] == picture_of(row["sha256"]) for row in rows if row["id"] in kept)


def test_the_bytes_depend_on_the_seed_and_not_on_memory_or_threads(
    release: Release, selection: Store, tmp_path: Path
) -> None:
    first = run(release, selection, tmp_path / "a")
    again = run(release, selection, tmp_path / "b", memory_bytes=1_000_000, threads=3)
    other = run(release, selection, tmp_path / "c", seed=1)
    assert first == again
    assert [tar.sha256 for tar in first.tars] != [tar.sha256 for tar in other.tars]


def test_a_tar_that_breaks_off_gives_what_it_has(release: Release, selection: Store, tmp_path: Path) -> None:
    whole = run(release, selection, tmp_path / "whole")
    path = next(tmp_path.glob("store/crawl/shards/1.tar"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])
    record = run(release, selection, tmp_path / "cut")
    assert 0 < record.missing - whole.missing < 50
    assert record.samples + record.missing == whole.samples + whole.missing


def test_rows_that_were_removed_from_the_release_are_not_written(
    release: Release, selection: Store, tmp_path: Path
) -> None:
    (file,) = release.files(FileKind.SOURCE)
    source = release.store.read_table(release.path(file.path)).to_pylist()
    gone = sorted(rows_of(selection))[:3]
    for row_id in gone:
        source[row_id - file.first_id] |= {"input": None, "key": None}
    schema = release.store.read_table(release.path(file.path)).schema
    release.store.write_table(release.path(file.path), pa.Table.from_pylist(source, schema=schema))
    record = run(release, selection, tmp_path / "tars")
    assert record.removed == 3
    written = b"".join(path.read_bytes() for path in (tmp_path / "tars").iterdir())
    assert not any(f"{row_id:015d}.".encode() in written for row_id in gone)


def members_of(folder: Path, record: ReshardRecord) -> list[tuple[str, str]]:
    """Return key and caption of all samples, in order; each has a picture."""
    found = []
    for tar in record.tars:
        with (folder / tar.path).open("rb") as stream:
            for sample in group_by_keys(tar_file_expander([{"url": tar.path, "stream": stream}])):
                assert sample["webp"] == picture_of(json.loads(sample["json"])["sha256"])
                found.append((sample["__key__"], sample["txt"].decode()))
    return found


def test_copies_and_captions_come_from_side_tables(release: Release, selection: Store, tmp_path: Path) -> None:
    ids = sorted(rows_of(selection))
    some = ids[5:]  # the first five are in no side table: one copy, TEXT
    number = {row_id: (0.0, 1.0, 2.5, 7.0)[row_id % 4] for row_id in some}
    captions = {row_id: [f"a of {row_id}", f"b of {row_id}"][: 1 + row_id % 2] for row_id in some}
    made = {"id": some, "captions": list(captions.values()), "weight": list(number.values())}
    pq.write_table(pa.table(made), tmp_path / "made.parquet")
    source = TableSource.open(str(tmp_path / "made.parquet"), JoinOn.ID, None)
    join_tables(release, "better", source, said="made")
    how = {"caption": "better.captions", "copies": "better.weight"}
    record = run(release, selection, tmp_path / "tars", **how)
    again = run(release, selection, tmp_path / "again", **how, memory_bytes=1_000_000, threads=3)
    assert again == record
    assert run(release, selection, tmp_path / "other", **how, seed=1).tars != record.tars

    members = members_of(tmp_path / "tars", record)
    keys = [key for key, _ in members]
    assert len(set(keys)) == len(keys) == record.samples
    by_row: dict[int, list[tuple[int, str]]] = {}
    for key, caption in members:
        number_of_row, _, copy = key.partition("-")
        by_row.setdefault(int(number_of_row), []).append((int(copy or 0), caption))
    listed = pq.read_table(tmp_path / "tars" / "missing.parquet")["id"].to_pylist()
    assert record.not_drawn == sum(one == 0 for one in number.values())
    assert len(listed) == len(set(listed)) == record.missing
    assert not {*listed} & {*by_row}
    assert len(by_row) + record.missing + record.not_drawn == len(ids)
    assert record.repeated == record.samples - len(by_row)
    halves = []
    for row_id, samples in by_row.items():
        samples.sort()
        assert [copy for copy, _ in samples] == list(range(len(samples)))
        expected = number.get(row_id, 1.0)
        assert len(samples) in (int(expected), int(expected + 0.5))
        halves += [len(samples)] if expected == 2.5 else []
        texts = [text for _, text in samples]
        if row_id not in captions:
            assert texts == [rows_of(selection)[row_id]["TEXT"]]
            continue
        assert set(texts) <= set(captions[row_id])
        if len(texts) > 1:
            assert set(texts) == set(captions[row_id])
    assert set(halves) == {2, 3}
    assert json.loads((tmp_path / "tars" / "sizes.json").read_text()) == {tar.path: tar.samples for tar in record.tars}


def test_columns_that_give_no_captions_or_copies_are_refused(
    release: Release, selection: Store, tmp_path: Path
) -> None:
    for how, said in (
        ({"caption": "better.captions"}, "has no column better.captions"),
        ({"caption": "WIDTH"}, "not a caption"),
        ({"copies": "TEXT"}, "not a number"),
        ({"copies": "WIDTH"}, "0 to 1,000 is possible"),
    ):
        with pytest.raises(SelectError, match=said):
            run(release, selection, tmp_path / "tars", **how)


def test_a_folder_with_other_things_and_another_release_are_refused(
    release: Release, selection: Store, tmp_path: Path
) -> None:
    command = ["reshard", str(tmp_path / "selection"), "--store", release.store.uri, "--out"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "tars"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["samples"] > 80
    for folder, said in (("tars", "contains a resharded selection"), ("selection", "contains other files")):
        result = CliRunner().invoke(app, [*command, str(tmp_path / folder)])
        assert isinstance(result.exception, SelectError)
        assert said in str(result.exception)
    result = CliRunner().invoke(app, ["reshard", str(tmp_path / "tars"), *command[2:], str(tmp_path / "x")])
    assert "name a folder that dataset select has written" in str(result.exception)
