"""Every figure equals DuckDB's, and a table that was made to have the LAION post's numbers gives them back."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from dataset.stats.figures import all_figures
from dataset.stats.gather import gather
from dataset.stats.units import units_of_folder
from dataset.store.store import Store
from tests.duckdb_figures import duckdb_figures
from tests.laion_rows import laion_rows

EXACT = ["rows", "columns", "sizes", "width", "height", "text", "aspect", "size_grid", "unsafe", "watermark"]
EXACT += ["similarity", "punsafe", "pwatermark", "aesthetic", "languages"]
SKETCHED = ["captions", "hosts", "distinct"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our figures and DuckDB's of 200,000 rows in four files."""
    folder = tmp_path_factory.mktemp("table")
    for number in range(4):
        pq.write_table(laion_rows(50_000, number), folder / f"{number}.parquet", row_group_size=20_000)
    store = Store.open(str(folder), writable=False)
    ours = all_figures(gather(store, units_of_folder(store)))["all"]
    with duckdb.connect() as connection:
        return ours, duckdb_figures(connection, f"read_parquet('{folder}/*.parquet')")


@pytest.mark.parametrize("name", EXACT)
def test_a_figure_equals_duckdbs_in_every_digit(both: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
    ours, theirs = both
    assert ours[name] == theirs[name]


def test_no_figure_is_left_unchecked(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = both
    assert ours.keys() == theirs.keys() == {*EXACT, *SKETCHED}


@pytest.mark.parametrize("name", ["captions", "hosts"])
def test_the_most_frequent_values_have_exact_counts(both: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
    ours, theirs = both
    values = [(each["value"], each["rows"]) for each in ours[name]["values"]]
    assert [rows for _, rows in values] == [rows for _, rows in theirs[name]]
    least = values[-1][1]
    assert {each for each in values if each[1] > least} == {each for each in theirs[name] if each[1] > least}


def test_distinct_counts_are_within_three_standard_errors(tmp_path: Path) -> None:
    table = laion_rows(60_000)
    pq.write_table(table, tmp_path / "rows.parquet")
    store = Store.open(str(tmp_path), writable=False)
    found = all_figures(gather(store, units_of_folder(store)))["all"]["distinct"]
    for name in ("URL", "TEXT"):
        exact = len(table[name].drop_null().unique())
        assert abs(found[name] / exact - 1) < 3 * 0.0081
