"""Statistics of a run: its parts, the funnel of its links, and galleries while pictures are stored."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dataset import main
from dataset.pictures.outcomes import Outcome
from dataset.stats.funnel import Funnel, count_part, count_shard, gather_funnel
from dataset.stats.gather import gather
from dataset.stats.units import PartUnits
from dataset.store.store import Store
from tests.dataset.report.test_report import row, write_scores, write_shard
from tests.manifests import put_manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with two runs; each output has what the manifest says of it."""
    store = Store.open(str(tmp_path / "store"))
    links = [row(0, Outcome.SUCCESS), row(1, Outcome.SUCCESS), row(2, Outcome.OPTED_OUT), row(3, Outcome.NOT_FOUND)]
    waiting = [row(0, Outcome.SUCCESS, language="de"), row(1, Outcome.TIMEOUT, final=False)]
    listed = [
        {"run": "one", **write_shard(store, 1, links)},
        {"run": "one", **write_scores(store, 1, [0.31, 0.1])},
        {"run": "two", **write_shard(store, 2, waiting, "multi")},
        {"run": "two", **write_scores(store, 2, [0.5], "multi")},
    ]
    put_manifest(store, listed)
    return store


def run(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(main.app, ["stats", "--store", store.uri, *arguments])


def printed(store: Store, *arguments: str) -> dict[str, Any]:
    result = run(store, *arguments, "--json")
    assert result.exit_code == 0, result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_run_has_its_parts_rows_and_its_funnel(store: Store) -> None:
    found = printed(store, "--run", "one")
    assert found["rows"] == 1
    assert found["funnel"]["outcomes"] == {"success": 2, "not_found": 1, "opted_out": 1}
    states = {state: links["rows"] for state, links in found["funnel"]["states"].items()}
    assert states == {"live": 2, "changed": 0, "dead": 1, "not_wanted": 1}
    assert found["funnel"]["opted_out"] == {"rows": 1, "share": 0.25}
    assert found["funnel"]["verdicts"] == {"below_threshold": 1, "kept": 1}


def test_without_a_run_all_of_the_manifest_counts(store: Store) -> None:
    found = printed(store)
    assert {subset: each["rows"] for subset, each in found["subsets"].items()} == {"en": 1, "multi": 1}
    assert found["funnel"]["attempts_made_again"] == {"timeout": 1}
    assert found["funnel"]["fetched_by_language"] == {"en": 2, "de": 1}


def test_a_file_that_the_manifest_does_not_list_does_not_count(store: Store) -> None:
    write_scores(store, 9, [0.9])
    assert gather(store, PartUnits(store)).counts["all"].rows == 2


def test_a_funnel_merges_into_what_one_pass_gives(store: Store) -> None:
    once = gather_funnel(store, ["shards/1", "shards/2"], [("parts/1", "en"), ("parts/2", "multi")])
    merged = Funnel()
    for one in (
        count_part(store, ("parts/2", "multi")),
        count_shard(store, "shards/2"),
        count_part(store, ("parts/1", "en")),
        count_shard(store, "shards/1"),
    ):
        merged.add(one)
    assert (merged.outcomes, merged.verdicts, merged.waiting) == (once.outcomes, once.verdicts, once.waiting)
    assert {model: bins.tolist() for model, bins in merged.kept_bins.items()} == {
        model: bins.tolist() for model, bins in once.kept_bins.items()
    }


def test_the_page_has_the_funnel_and_a_gallery_for_each_bucket_with_pictures(store: Store, tmp_path: Path) -> None:
    assert run(store, "--html", str(tmp_path / "page.html")).exit_code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>From link to pair</h2>" in page
    assert "not wanted, 1 opted out" in page
    assert "<h2>similarity from 0.3 to 0.35</h2>" in page
    assert "<h2>similarity from 0.4</h2>" in page
    assert "<h2>aesthetic" not in page
    assert page.count("<img ") == 2


def test_a_run_without_a_filter_has_its_links_and_no_empty_tables(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    put_manifest(store, [{"run": "list", **write_shard(store, 1, [row(0, Outcome.SUCCESS)])}])
    text = run(store, "--run", "list", "--html", str(tmp_path / "page.html")).stdout
    assert [line for line in text.splitlines() if line.startswith("#")] == ["### Links"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>From link to pair</h2>" in page
    assert "<h2>Columns</h2>" not in page


def test_an_unknown_run_is_one_sentence(store: Store) -> None:
    assert "no run 'three'" in str(run(store, "--run", "three").exception)


def test_a_store_without_shards_and_parts_says_why_a_run_may_have_none(tmp_path: Path) -> None:
    empty = Store.open(str(tmp_path))
    put_manifest(empty, [])
    said = str(run(empty).exception)
    assert "has no shard and no part to count" in said
    assert "Links that the database had before are not downloaded again." in said


def test_a_part_that_is_gone_is_named(store: Store) -> None:
    store.delete("parts/1.parquet")
    assert "parts/1.parquet is missing" in str(run(store).exception)


def test_a_store_is_not_counted_as_a_folder_of_tables(store: Store) -> None:
    result = CliRunner().invoke(main.app, ["stats", store.uri])
    assert f"use --store {store.uri}" in str(result.exception)
