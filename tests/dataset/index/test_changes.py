"""Indexes that are changed: further batches, compaction, new side tables, builds that follow each other."""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataset.errors import DatasetError
from dataset.formats.releases import Release
from dataset.formats.steps import UnitResult
from dataset.index.delete import delete_ids
from dataset.index.filters import parse_filter
from dataset.index.finish import write_segment
from dataset.index.jobs import run_step
from dataset.index.lookup import Index, open_index
from dataset.index.plan import IndexOptions, work_on_folder
from dataset.main import app
from dataset.side_tables.join import join_tables
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.store.store import Store
from tests.dataset.index.made import build_folder, build_index, made_release, publish_batch, put_vectors, vectors_by_id
from tests.dataset.index.test_delete import checksums_hold
from tests.parts import MadeStore

FOLDER = "index/ViT-L-14/image"


def finds_all(index: Index, release: Release, without: npt.NDArray[np.int64] | None = None) -> None:
    ids, vectors = vectors_by_id(release)
    gone = np.isin(ids, without if without is not None else [])
    found = index.search(vectors, 1)
    assert [hits.ids[0] for hits, dead in zip(found, gone, strict=True) if not dead] == ids[~gone].tolist()
    assert not any(hits.ids[0] == one for hits, one, dead in zip(found, ids, gone, strict=True) if dead)
    assert [row["id"] if row else None for row in index.rows(ids)] == [
        None if dead else one for one, dead in zip(ids.tolist(), gone, strict=True)
    ]


def test_a_batch_is_added_as_a_segment_and_compaction_joins_it_without_removed_rows(tmp_path: Path) -> None:
    made = MadeStore(Store.open(str(tmp_path)))
    release = publish_batch(made, "crawl", range(300))
    folder, first = build_index(release, kind="sq16", lists=8)
    index = open_index(folder)
    release = publish_batch(made, "more", range(300, 500), "2026-12-01")
    _, record = build_index(release, further=True)
    assert [segment.batches for segment in record.segments] == [("2026-11-26",), ("2026-12-01",)]
    assert (record.rows, record.trained) == (500, first.trained)
    finds_all(index, release)
    with pytest.raises(DatasetError, match="has all batches of laion"):
        build_index(release, further=True)

    ids, _ = vectors_by_id(release)
    gone = ids[::5]
    delete_ids(release.store, release.path(FOLDER), gone)
    finds_all(index, release, gone)
    _, record = build_index(release, compact=True)
    assert len(record.segments) == 1
    assert (record.rows, record.segments[0].rows, record.segments[0].removed) == (400, 400, 0)
    finds_all(index, release, gone)
    finds_all(open_index(folder), release, gone)
    checksums_hold(folder, record)
    listed = {*(file.path for file in record.files), "index.json", "speed.json", "README.md", ".lock"}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == listed


def test_a_row_that_is_removed_during_a_compaction_stays_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = put_vectors(tmp_path, [200])
    folder, _ = build_folder(tmp_path, kind="sq16", lists=4)

    def removes_meanwhile(work, merged):  # type: ignore[no-untyped-def]
        delete_ids(Store.open(str(folder)), "", [17])
        return write_segment(work, merged)

    monkeypatch.setattr("dataset.index.jobs.write_segment", removes_meanwhile)
    delete_ids(Store.open(str(folder)), "", [3])
    _, record = build_folder(tmp_path, compact=True)
    assert record.rows == 198
    index = open_index(folder)
    assert index.rows([3, 17]) == [None, None]
    assert {3, 17}.isdisjoint(index.search(rows[17], 198)[0].ids.tolist())
    checksums_hold(folder, record)


def test_facets_follow_side_tables_when_they_are_refreshed(tmp_path: Path) -> None:
    release = made_release(tmp_path, 200)
    folder, _ = build_index(release)
    index = open_index(folder)
    ids, _ = vectors_by_id(release)
    safe = set(ids[::3].tolist())
    scores = pa.table({"id": ids, "punsafe": [0.1 if one in safe else 0.9 for one in ids.tolist()],
                       "aesthetic": np.linspace(4, 8, len(ids))})  # fmt: skip
    groups = pa.table({"id": ids, "representative": ids // 10 * 10, "group_size": np.full(len(ids), 10)})
    for name, table in (("tags", scores), ("duplicates", groups)):
        Store.open(str(tmp_path)).write_table(f"{name}.parquet", table)
        source = TableSource.open(str(tmp_path / f"{name}.parquet"), JoinOn.ID, None)
        join_tables(release, name, source, said=name)
    delete_ids(release.store, release.path(FOLDER), [int(ids[0]), int(ids[10])])
    result = CliRunner().invoke(app, ["index", "refresh", "laion", "--store", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    facets = json.loads(result.stdout)["facets"]
    card = release.store.read(release.path("README.md")).decode()
    assert "| image | ViT-L-14 | flat | 1 | 198 |" in card
    assert f"| image | images | 100% | 1 | {index.record.recall[-1].recall_at_1:.3f} |" in card
    assert hashlib.sha256(card.encode()).hexdigest() in release.store.read(release.path("SHA256SUMS")).decode()
    assert index.facets() == facets
    assert (facets["alive"], facets["representative"], facets["aesthetic=7"]) == (198, 18, 50)
    (hits,) = index.search(np.ones((1, 16), np.float32), 200, where=parse_filter("safe"))
    assert set(hits.ids.tolist()) == safe - {int(ids[0])}
    assert index.rows([int(ids[10])]) == [None]


def test_the_same_call_does_nothing_and_another_kind_begins_a_new_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = put_vectors(tmp_path, [300])
    folder, first = build_folder(tmp_path)
    index = open_index(folder)
    with monkeypatch.context() as patch:
        patch.setattr("dataset.index.jobs.train", None)  # it trains nothing
        assert build_folder(tmp_path)[1] == first
    work = work_on_folder(str(tmp_path), None, IndexOptions(model="", held_out=16))
    trained = (folder / "1/trained.faiss").read_bytes()
    assert run_step(work, "train", 0, scratch=tmp_path) == UnitResult(0, 0)
    assert (folder / "1/trained.faiss").read_bytes() == trained
    _, second = build_folder(tmp_path, kind="rabitq", lists=4)
    assert (first.generation, second.generation, second.kind) == (1, 2, "rabitq")
    assert [hits.ids[0] for hits in index.search(rows, 1, probes=4)] == list(range(300))
    assert {path.parts[len(folder.parts)] for path in folder.rglob("*.*")} == {
        "index.json", "speed.json", "README.md", ".lock", "2", "2-2-rows"
    }  # fmt: skip


def test_an_index_inside_the_folder_of_its_vectors_is_not_taken_for_vectors(tmp_path: Path) -> None:
    put_vectors(tmp_path, [50])
    build = ["index", "build", str(tmp_path), "--out", str(tmp_path / "mine"), "--json"]
    for more in ([], ["--restart"]):
        built = CliRunner().invoke(app, [*build, *more])
        assert built.exit_code == 0, built.output
        assert json.loads(built.stdout)["rows"] == 50
    info = CliRunner().invoke(app, ["index", "info", str(tmp_path / "mine"), "--json"])
    assert json.loads(info.stdout)["facets"]["alive"] == 50


def test_rows_are_deleted_by_a_command_that_needs_yes(tmp_path: Path) -> None:
    put_vectors(tmp_path, [50])
    build_folder(tmp_path)
    counted = CliRunner().invoke(app, ["index", "delete", str(tmp_path), "4", "9", "--json"])
    assert json.loads(counted.stdout) == {"modality": "image", "rows": 2, "deleted": False}
    deleted = CliRunner().invoke(app, ["index", "delete", str(tmp_path), "4", "9", "--yes"])
    assert "2  rows of the image index removed" in deleted.stdout
    again = CliRunner().invoke(app, ["index", "delete", str(tmp_path), "4", "9", "--json"])
    assert json.loads(again.stdout)["rows"] == 0
