"""The path of each row of a search in two batches leads to what represents it."""

from pathlib import Path

import pytest

from dataset.dedup.options import Options
from dataset.dedup.path import Step, find_path
from dataset.dedup.run import search
from dataset.formats.releases import Release
from dataset.formats.side_tables import read_side_tables
from dataset.store.store import Store
from tests.planted import MODEL, planted, put_release

OPTIONS = Options(model=MODEL, at=0.94, cells=16, super_cells=2)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    vectors = planted(420, dimensions=48)
    store = Store.open(str(tmp_path_factory.mktemp("path")))
    made = put_release(store, "laion", [vectors[:350], vectors[350:]])
    search(made, OPTIONS)
    return made


def test_path_of_each_row_ends_at_its_representative(release: Release) -> None:
    files = read_side_tables(release)["duplicates"].files
    rows = [row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()]
    of = {row["id"]: row["representative"] for row in rows}
    steps = set()
    for row in rows[::2]:
        path = find_path(release, OPTIONS, row["id"])
        assert path is not None
        steps.add(path.step)
        assert path.batch == f"2026-11-0{1 + (row['id'] >= 350)}"
        match path.step:
            case Step.KEPT:
                assert of[row["id"]] == row["id"]
            case Step.EQUAL:
                assert path.met is not None
                assert of[path.met] == of[row["id"]]
            case _:
                assert path.met == of[row["id"]]
                assert path.visited in (path.cell, path.met_cell)
                assert path.round is not None
                assert 1 <= path.round <= path.rounds
    assert steps == set(Step)


def test_deleted_work_has_no_path(release: Release, tmp_path: Path) -> None:
    other = put_release(Store.open(str(tmp_path)), "laion", [planted(40, dimensions=16)])
    assert find_path(other, OPTIONS, 3) is None
    assert find_path(release, OPTIONS, 10**9) is None
