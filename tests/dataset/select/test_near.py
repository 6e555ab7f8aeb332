"""Rows near a query, which the index of a release answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from dataset.formats.releases import Release, open_release
from dataset.formats.selections import read_selection
from dataset.main import app
from dataset.store.store import Store
from tests.dataset.index.made import build_index, made_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of 300 rows with an index."""
    made = made_release(tmp_path_factory.mktemp("store"), 300)
    build_index(made)
    return open_release(made.store, "laion")


@pytest.fixture(scope="module")
def expected(release: Release) -> list[tuple[int, float]]:
    """All ids with their similarities to the query, best first, by brute force."""
    folder = release.path("embeddings/ViT-L-14")
    paths = release.store.list(folder)
    ids = [row for path in paths if "/metadata_" in path for row in release.store.read_table(path)["id"].to_pylist()]
    rows = [np.load(release.store.open_input(path)) for path in paths if "/img_emb_" in path]
    similarities = np.concatenate(rows).astype(np.float32) @ QUERY[0]
    return sorted(zip(ids, similarities.tolist(), strict=True), key=lambda one: -one[1])


QUERY: npt.NDArray[np.float32] = np.random.default_rng(5).normal(size=(1, 16)).astype(np.float32)
QUERY /= np.linalg.norm(QUERY)


def select(monkeypatch: pytest.MonkeyPatch, release: Release, *arguments: str) -> Any:
    """Run the command; the model's place is taken by a vector."""
    monkeypatch.setattr("dataset.commands.select.embed_query", lambda *_: QUERY)
    return CliRunner().invoke(app, ["select", "laion", "--store", release.store.uri, *arguments])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    store = Store.open(str(folder))
    paths = (path for path in store.list() if path.endswith(".parquet"))
    return [row for path in paths for row in store.read_table(path).to_pylist()]


def test_the_nearest_rows_are_selected_with_rank_and_similarity(
    release: Release, expected: list[tuple[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = select(monkeypatch, release, "--near", "a dog", "--nearest", "40", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.exception
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: row["near_rank"])
    assert [row["id"] for row in rows] == [row_id for row_id, _ in expected[:40]]
    assert [row["near_rank"] for row in rows] == list(range(1, 41))
    assert np.allclose([row["near_similarity"] for row in rows], [near for _, near in expected[:40]], atol=1e-3)
    near = read_selection(Store.open(str(tmp_path / "out"))).near
    assert near is not None
    assert (near.text, near.picture, near.nearest, near.found) == ("a dog", None, 40, 40)
    assert (near.index, near.version, near.model_sha256) == ("index/ViT-L-14/image", "1.0.0", "a" * 64)


def test_a_least_similarity_takes_all_rows_that_have_it_and_an_expression_chooses_among_them(
    release: Release,
    expected: list[tuple[int, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dataset.select.near._FIRST_ROWS", 10)  # so that it has to ask again
    border = (expected[99][1] + expected[100][1]) / 2
    query = ("--near", "a dog", "--at-least", str(border))
    done = select(monkeypatch, release, *query, "--out", str(tmp_path / "all"))
    assert done.exit_code == 0, done.exception
    assert {row["id"] for row in rows_of(tmp_path / "all")} == {row_id for row_id, _ in expected[:100]}
    some = ("--where", "WIDTH >= 1000 AND near_rank <= 50", "--sample", "5", "--out", str(tmp_path / "some"))
    done = select(monkeypatch, release, *query, *some)
    assert done.exit_code == 0, done.exception
    rows = rows_of(tmp_path / "some")
    assert len(rows) == 5
    assert all(row["WIDTH"] >= 1000 and row["near_rank"] <= 50 for row in rows)
    counted = select(monkeypatch, release, *query, "--nearest", "7", "--count", "--json")
    assert json.loads(counted.stdout)["rows"] == 7


def test_no_row_that_is_near_enough_and_half_a_query_are_refused(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = select(monkeypatch, release, "--near", "a dog", "--at-least", "0.99", "--out", str(tmp_path / "x"))
    assert "No row has a similarity of at least 0.99 to the query: the nearest has 0." in str(done.exception)
    for half in (("--near", "a dog"), ("--where", "TRUE", "--nearest", "3")):
        done = select(monkeypatch, release, *half, "--out", str(tmp_path / "x"))
        assert done.exit_code == 2
        assert "--near together with --nearest" in done.output
