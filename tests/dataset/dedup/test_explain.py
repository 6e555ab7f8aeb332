"""`dataset dedup explain` on a release of a few planted rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dataset.dedup.errors import DedupError
from dataset.dedup.explain import explain
from dataset.dedup.options import Options
from dataset.dedup.projection import unit_rows
from dataset.dedup.run import search
from dataset.dedup.vectors import Vectors
from dataset.formats.releases import Release
from dataset.main import app
from dataset.store.store import Store
from tests.planted import MODEL, put_release

ROWS = 60


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Rows 1 and 2 are near row 0, which is best; row 3 is at .92 to it."""
    draw = np.random.default_rng(3)
    vectors = unit_rows(draw.normal(size=(ROWS, 32)))
    for row, cosine in ((1, 0.98), (2, 0.96), (3, 0.92)):
        away = unit_rows((vectors[row] - vectors[row] @ vectors[0] * vectors[0])[None])[0]
        vectors[row] = cosine * vectors[0] + np.sqrt(1 - cosine**2) * away
    best = np.zeros(ROWS, bool)
    best[0] = True
    hashes = [bytes([one]) * 32 for one in range(1, ROWS + 1)]
    made = put_release(
        Store.open(str(tmp_path_factory.mktemp("explain"))),
        "laion",
        [vectors.astype(np.float16)],
        rows_per_file=40,
        embeddings_per_file=25,
        best=best,
        pdq=hashes,
    )
    search(made, Options(model=MODEL, at=0.94))
    return made


def test_member_is_explained_by_its_representative_and_the_nearest_other_row(release: Release) -> None:
    found = explain(release, [1])
    assert found.rows[1].representative == 0
    compared = found.to_representative[1]
    assert compared.cosine == pytest.approx(0.98, abs=1e-3)
    assert compared.pdq == 32 * 2
    assert (compared.better, compared.decided_by) == (0, "watermark")
    path = found.paths[1]
    assert path is not None
    assert (path.step, path.met, path.cell, path.visited) == ("round", 0, path.met_cell, path.cell)
    other = found.not_merged[1]
    assert other is not None
    assert other.b == 3
    assert found.rows[3].representative == 3


def test_two_rows_are_compared(release: Release) -> None:
    found = explain(release, [0, 3])
    assert found.pair is not None
    assert found.pair.cosine == pytest.approx(0.92, abs=1e-3)
    assert found.same_group is False
    assert explain(release, [1, 2]).same_group is True


def test_nearest_rows_are_those_of_a_product_of_all(release: Release) -> None:
    vectors = Vectors(release, MODEL)
    rows = vectors.take(np.arange(ROWS)).astype(np.float32)
    cosines = rows @ rows[5] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[5])
    ids, found = vectors.nearest(rows[5], 7)
    assert ids.tolist() == np.argsort(-cosines)[:7].tolist()
    assert np.allclose(found, np.sort(cosines)[::-1][:7], atol=1e-5)


@pytest.mark.parametrize("row", [-1, ROWS])
def test_unknown_row_is_refused(release: Release, row: int) -> None:
    with pytest.raises(DedupError, match=f"no row {row}"):
        explain(release, [row])


def test_command_says_why_and_writes_a_page(release: Release, tmp_path: Path) -> None:
    run = CliRunner().invoke(
        app,
        [
            "dedup",
            "explain",
            "laion",
            "1",
            "2",
            "--store",
            str(release.store.uri),
            "--page",
            str(tmp_path / "page.html"),
        ],
        catch_exceptions=False,
    )
    assert run.exit_code == 0
    assert "near of 0, which is better by" in run.stdout
    assert "nearest that was not merged: 3, cosine 0.9" in run.stdout
    assert "below 0.94" in run.stdout
    assert "1 and 2: cosine" in run.stdout
    page = (tmp_path / "page.html").read_text()
    assert "Near-duplicates of 1 and 2" in page
    assert "https://host3.example.com/3.jpg" in page
    told = CliRunner().invoke(app, ["dedup", "explain", "laion", "0", "--store", str(release.store.uri), "--json"])
    assert json.loads(told.stdout)["rows"]["0"]["group_size"] == 3


def test_find_may_be_left_out(release: Release) -> None:
    for words in (["find", "laion"], ["laion"]):
        run = CliRunner().invoke(app, ["dedup", *words, "--model", MODEL, "--store", str(release.store.uri)])
        assert run.exit_code == 0, run.output
        assert "representatives" in run.stdout
