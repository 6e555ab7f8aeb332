"""`dataset dedup against` and `dataset select --mask`, compared with a product of all rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from dataset.dedup import against
from dataset.dedup.against import FolderSet, OtherSet, ReleaseSet, write_mask
from dataset.dedup.errors import DedupError
from dataset.dedup.projection import unit_rows
from dataset.formats.json_records import to_json
from dataset.formats.masks import RECORD, ROWS, MaskError, read_masked_ids
from dataset.formats.releases import Release, open_release
from dataset.main import app
from dataset.store.store import Store
from tests.planted import MODEL, planted, put_release

AT, ROWS_OF_RELEASE = 0.94, 600
Halves = npt.NDArray[np.float16]


@pytest.fixture(scope="module")
def vectors() -> Halves:
    return planted(1_200, dimensions=160)  # more than codes keep


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, vectors: Halves) -> Release:
    store = Store.open(str(tmp_path_factory.mktemp("against")))
    put_release(store, "other", [vectors[900:]])
    return put_release(store, "laion", [vectors[:ROWS_OF_RELEASE]], rows_per_file=250, embeddings_per_file=200)


@pytest.fixture
def evaluation(tmp_path: Path, vectors: Halves) -> Path:
    """Rows 600 to 900 in two files, and a row without a direction in front."""
    folder = tmp_path / "imagenet"
    folder.mkdir()
    np.save(folder / "a.npy", np.concatenate([np.zeros((1, 160), np.float16), vectors[600:750]]))
    np.save(folder / "b.npy", vectors[750:900].astype(np.float32))
    return folder


def expected(vectors: Halves, start: int, end: int) -> dict[int, float]:
    own, other = unit_rows(vectors[:ROWS_OF_RELEASE]), unit_rows(vectors[start:end])
    best = (own @ other.T).max(axis=1)
    return {int(row): float(best[row]) for row in np.flatnonzero(best >= AT)}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Store.open(str(folder)).read_table(ROWS).to_pylist()
    return found


@pytest.mark.parametrize("at_once", [250_000, 64])
def test_mask_has_all_rows_that_are_near(
    release: Release, evaluation: Path, vectors: Halves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(against, "OTHERS_AT_ONCE", at_once)
    monkeypatch.setattr(against, "_COLUMNS_AT_ONCE", 50)
    monkeypatch.setattr(against, "_PAIRS_AT_ONCE", 7)
    sets: list[OtherSet] = [FolderSet(Store.open(str(evaluation)), "imagenet"), ReleaseSet(other_of(release), MODEL)]
    record = write_mask(release, MODEL, sets, AT, Store.open(str(tmp_path / "mask")))
    known = {"imagenet": expected(vectors, 600, 900), "other": expected(vectors, 900, 1_200)}
    assert len(known["imagenet"]) > 20
    for name, near in known.items():
        found = {row["id"]: row for row in rows_of(tmp_path / "mask") if row["other"] == name}
        assert found.keys() == near.keys()
        assert all(abs(found[one]["cosine"] - cosine) < 2e-4 for one, cosine in near.items())
        first = 599 if name == "imagenet" else 900  # a row of zeros comes first there
        own = unit_rows(vectors)
        assert all(own[one] @ own[row["other_row"] + first] >= AT - 2e-4 for one, row in found.items())
    assert {row["reason"] for row in rows_of(tmp_path / "mask")} == {"evaluation", "overlap"}
    both = known["imagenet"].keys() & known["other"].keys()
    assert record.overlap["imagenet"]["other"] == len(both)
    assert record.overlap["other"]["other"] == len(known["other"])
    assert record.rows == len(known["imagenet"].keys() | known["other"].keys())
    near_rows = unit_rows(vectors[600:900]) @ unit_rows(vectors[:ROWS_OF_RELEASE]).T
    assert record.sets[0].near_rows == int((near_rows.max(axis=1) >= AT).sum())
    assert [one.same_model for one in record.sets] == [False, True]


def other_of(release: Release) -> Release:
    return open_release(release.store, "other")


def test_selection_leaves_out_masked_rows(release: Release, evaluation: Path, tmp_path: Path) -> None:
    mask, out = tmp_path / "mask", tmp_path / "selected"
    store = ["--store", release.store.uri]
    run = CliRunner().invoke(
        app, ["dedup", "against", "laion", str(evaluation), "--out", str(mask), *store], catch_exceptions=False
    )
    assert "rows of laion 1.0.0 are masked" in run.stdout
    assert "its model is not known" in run.stdout
    masked = {row["id"] for row in rows_of(mask)}
    select = ["select", "laion", "--mask", str(mask), *store]
    run = CliRunner().invoke(app, [*select, "--count", "--json"], catch_exceptions=False)
    assert json.loads(run.stdout)["rows"] == ROWS_OF_RELEASE - len(masked)
    run = CliRunner().invoke(app, [*select, "--where", "id < 300", "--out", str(out)], catch_exceptions=False)
    assert run.exit_code == 0
    kept = {row["id"] for row in Store.open(str(out)).read_table("part-00000.parquet").to_pylist()}
    assert kept == set(range(300)) - masked
    assert len(json.loads((out / "selection.json").read_text())["masks"]) == 1


def test_masks_that_do_not_fit_are_refused(release: Release, evaluation: Path, tmp_path: Path) -> None:
    mask = Store.open(str(tmp_path / "mask"))
    record = write_mask(release, MODEL, [FolderSet(Store.open(str(evaluation)), "imagenet")], AT, mask)
    with pytest.raises(MaskError, match="not of other"):
        read_masked_ids(other_of(release), [mask])
    mask.put(RECORD, to_json(replace(record, next_id=5)))
    with pytest.raises(MaskError, match="later rows"):
        read_masked_ids(release, [mask])
    with pytest.raises(MaskError, match=r"has no mask\.json"):
        read_masked_ids(release, [Store.open(str(evaluation))])


def test_sets_that_cannot_be_compared_are_refused(release: Release, evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(DedupError, match=r"has no \.npy file"):
        FolderSet(Store.open(str(tmp_path / "mask")), "mask")
    np.save(evaluation / "c.npy", np.zeros((2, 5), np.float16))
    with pytest.raises(DedupError, match="different dimensions"):
        FolderSet(Store.open(str(evaluation)), "imagenet")
    with pytest.raises(DedupError, match="a name of its own"):
        write_mask(release, MODEL, [ReleaseSet(release, MODEL)], AT, Store.open(str(tmp_path / "mask")))
