"""`dataset dedup prompts` on groups of known sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dataset.dedup.options import Options
from dataset.dedup.projection import unit_rows
from dataset.dedup.prompts import most_duplicated
from dataset.dedup.run import search
from dataset.formats.releases import Release
from dataset.formats.side_tables import read_side_tables
from dataset.main import app
from dataset.store.store import Store
from tests.planted import MODEL, put_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Groups of 2, 3, … 9 equal rows, mixed over files of 10."""
    originals = unit_rows(np.random.default_rng(1).normal(size=(12, 32))).astype(np.float16)
    rows = np.repeat(originals, [1, 1, 1, 1, *range(2, 10)], axis=0)
    mixed = rows[np.random.default_rng(2).permutation(len(rows))]
    made = put_release(Store.open(str(tmp_path_factory.mktemp("prompts"))), "laion", [mixed], rows_per_file=10)
    search(made, Options(model=MODEL, at=0.94))
    return made


def test_largest_groups_come_first_each_with_its_best_caption(release: Release) -> None:
    files = read_side_tables(release)["duplicates"].files
    rows = [row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()]
    captions = {row["id"]: row["top_caption"] for row in rows if row["kind"] == "self"}
    found = most_duplicated(release, 5, threads=2)
    assert [one.group_size for one in found] == [9, 8, 7, 6, 5]
    assert [one.prompt for one in found] == [captions[one.representative] for one in found]
    assert len(most_duplicated(release, 100)) == 8  # a row of its own is no group


def test_command_prints_a_prompt_a_line(release: Release, tmp_path: Path) -> None:
    words = ["dedup", "prompts", "laion", "--top", "3", "--store", release.store.uri]
    plain = CliRunner().invoke(app, words, catch_exceptions=False)
    told = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    records = [json.loads(line) for line in told.stdout.splitlines()]
    assert plain.stdout.splitlines() == [one["prompt"] for one in records]
    assert [one["group_size"] for one in records] == [9, 8, 7]
