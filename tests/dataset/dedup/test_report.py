"""`dataset dedup report` on a release of two batches, compared with the table that it was made from."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dataset.dedup.errors import DedupError
from dataset.dedup.figures import Figures, gather
from dataset.dedup.options import Options
from dataset.dedup.report_page import render
from dataset.dedup.run import search
from dataset.formats.duplicates import PLANT
from dataset.formats.releases import Release
from dataset.formats.side_tables import read_side_tables
from dataset.main import app
from dataset.store.store import Store
from tests.planted import MODEL, planted, put_release

OPTIONS = Options(model=MODEL, at=0.94, cells=16, super_cells=2)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    vectors = planted(900, dimensions=48)
    store = Store.open(str(tmp_path_factory.mktemp("report")))
    made = put_release(store, "laion", [vectors[:700], vectors[700:]], rows_per_file=400)
    search(made, OPTIONS)
    return made


@pytest.fixture(scope="module")
def rows(release: Release) -> list[dict[str, Any]]:
    files = read_side_tables(release)["duplicates"].files
    return [row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()]


@pytest.fixture(scope="module")
def figures(release: Release) -> Figures:
    return gather(release, threads=2)


def test_counts_are_those_of_the_table(figures: Figures, rows: list[dict[str, Any]]) -> None:
    assert sum(figures.rows_by_size.values()) == len(rows) == 900
    assert figures.rows_by_size["1"] == sum(row["group_size"] == 1 for row in rows)
    near = [row["cosine"] for row in rows if row["kind"] == "near"]
    assert sum(figures.cosines.values()) == len(near)
    assert float(next(iter(figures.cosines))) == 0.94
    first, second = figures.batches
    assert (first.rows, second.rows, first.of_earlier) == (700, 200, 0)
    assert second.of_earlier == sum(row["id"] >= 700 and row["representative"] < 700 for row in rows)
    assert first.representatives + second.representatives == figures.search["representatives"]
    hosts = Counter(row["id"] % 97 for row in rows if row["kind"] != "self")
    assert figures.hosts[0].members == hosts.most_common(1)[0][1]


def test_largest_groups_have_members_at_the_quantiles(figures: Figures, rows: list[dict[str, Any]]) -> None:
    sizes = sorted((row["group_size"] for row in rows if row["kind"] == "self"), reverse=True)
    assert [group.size for group in figures.largest] == [size for size in sizes if size > 1][: len(figures.largest)]
    group = figures.largest[0]
    cosines = [row["cosine"] for row in rows if row["representative"] == group.representative != row["id"]]
    assert group.members[0].cosine == pytest.approx(max(cosines), abs=1e-4)
    assert group.members[-1].cosine == pytest.approx(min(cosines), abs=1e-4)


def test_page_has_every_section_and_escapes_what_it_shows(figures: Figures) -> None:
    page = render(figures, {figures.largest[0].representative: "data:,"})
    for heading in ("Funnel", "Cosine to the representative", "Largest groups", "Recall", "Hosts", "Batches", "Checks"):
        assert f"<h2>{heading}</h2>" in page
    assert f"<h2>Group of {figures.largest[0].size:,}</h2>" in page
    assert 'class="threshold"' in page
    assert "run dataset dedup plant laion" in page
    evil = figures.to_json() | {"planted": None}
    group = type(figures.largest[0])(9, 1, 1, "<script>alert(1)</script>", "https://a.example/<b>")
    assert "<script>" not in render(Figures(**{**_fields(figures), "largest": (group,)}), {})
    assert evil["largest"]


def test_planted_copies_are_shown_only_for_the_same_options(release: Release, figures: Figures) -> None:
    edit = {"edit": "JPEG 30", "is_copy": True, "pairs": 9, "refused": 0, "cosine": [0.9, 0.95, 0.99], "by_pdq": 8}
    share = {"share": 0.9, "interval": [0.6, 0.98]}
    said = {"pictures": 9, "edits": [edit | {"index_recall": share, "recall": share}], "options": OPTIONS.to_json()}
    release.store.put(release.path(PLANT), json.dumps(said).encode())
    assert '<th scope="row">JPEG 30</th>' in render(gather(release), {})
    said["options"] = Options(model=MODEL, at=0.9).to_json()
    release.store.put(release.path(PLANT), json.dumps(said).encode())
    assert gather(release).planted is None
    release.store.delete(release.path(PLANT))


def test_command_writes_the_page_and_prints_the_figures(release: Release, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    words = ["dedup", "report", "laion", "--store", release.store.uri, "--out", str(out), "--json"]
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    assert run.exit_code == 0
    assert json.loads(run.stdout)["search"]["rows"] == 900
    assert "Near-duplicates of laion" in out.read_text()


def test_release_that_was_not_searched_is_refused(tmp_path: Path) -> None:
    made = put_release(Store.open(str(tmp_path)), "laion", [planted(100, dimensions=16)])
    with pytest.raises(DedupError, match="make it with dataset dedup laion"):
        gather(made)


def _fields(figures: Figures) -> dict[str, Any]:
    return {name: getattr(figures, name) for name in Figures.__dataclass_fields__}
