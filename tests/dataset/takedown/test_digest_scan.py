"""Rows that only an md5, a sha1 or a PDQ names are hidden once a scan has found them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dataset.formats.releases import Release, open_release
from dataset.formats.takedowns import Entry, scans_folder
from dataset.main import app
from dataset.search.screen import Screen as SearchScreen
from dataset.side_tables.rows import ReleaseRows
from dataset.takedown.apply import apply_takedowns
from dataset.takedown.digest_scan import lists_to_scan, scan_digests
from dataset.takedown.requests import file_request
from dataset.takedown.screen import Screen
from dataset.takedown.status import takedown_status
from tests.dataset.search.tiny import tiny_engine
from tests.takedowns import PER_SHARD, make_crawl, make_release, sample

ROWS = 3 * PER_SHARD
NAMED = {"md5": 1, "sha1": PER_SHARD + 1, "pdq": 2 * PER_SHARD + 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(make_crawl(tmp_path_factory.mktemp("made"), 3))


@pytest.fixture
def release(made: Release) -> Iterator[Release]:
    yield made
    for folder in ("deny", "takedowns"):
        for path in made.store.list(folder):
            made.store.delete(path)


def named(kind: str) -> Entry:
    value = sample(NAMED[kind])[kind]
    return Entry(kind=kind, value=value.hex() if kind == "pdq" else value)


def hidden(release: Release) -> set[str]:
    screen, found = Screen.of(release), set()
    rows = ReleaseRows.open(release)
    for group in rows.row_groups():
        table = rows.read(group, ["URL", *sorted(screen.columns - {"URL"})])
        found |= set(table["URL"].filter(screen.hidden(table)).to_pylist())
    return found


def state(release: Release) -> tuple[int, int, int]:
    (found,) = takedown_status(release.store).releases
    return found.lists_to_scan, found.scanned, found.to_scan


def test_select_hides_rows_of_each_kind_after_a_scan_and_status_says_how_far_it_is(release: Release) -> None:
    for kind in NAMED:
        file_request(release.store, [named(kind)], "csam")
    assert (hidden(release), state(release)) == (set(), (3, 0, 0))
    done = scan_digests(release.store, "laion", threads=2)
    assert done is not None
    assert (done.lists, done.rows) == (3, 3)
    assert hidden(release) == {sample(seed)["URL"] for seed in NAMED.values()}
    assert state(release) == (0, done.files, done.files)
    assert scan_digests(release.store, "laion") is None


def test_a_scan_that_was_ended_goes_on_and_a_later_list_is_compared_alone(release: Release) -> None:
    file_request(release.store, [named("md5")], "csam")
    first = scan_digests(release.store, "laion")
    assert first is not None
    paths = [path for path in release.store.list(scans_folder("laion")) if path.endswith(".parquet")]
    release.store.delete(paths[0])
    assert state(release) == (0, len(paths) - 1, len(paths))
    again = scan_digests(release.store, "laion")
    assert again == replace(first, files=1)
    file_request(release.store, [named("sha1")], "csam")
    assert len(lists_to_scan(release.store, "laion")) == 1
    later = scan_digests(release.store, "laion")
    assert later is not None
    assert (later.files, later.rows) == (len(paths), 2)


def test_a_list_without_such_entries_needs_no_scan(release: Release) -> None:
    file_request(release.store, [Entry(kind="url", value=sample(0)["URL"])], "privacy")
    assert state(release) == (0, 0, 0)
    assert scan_digests(release.store, "laion") is None


def test_search_hides_what_a_scan_has_found_of_its_release_at_the_next_refresh(release: Release) -> None:
    store = release.store
    file_request(store, [named("md5")], "csam")
    engine = tiny_engine(ROWS)
    engine.release, engine.first_id = "laion", 0
    ids = np.arange(ROWS)
    screen = SearchScreen(store=store, releases=["laion"])
    assert screen.refresh()
    assert screen.visible(engine, ids).all()
    scan_digests(store, "laion")
    assert screen.refresh()
    assert not screen.refresh()
    (gone,) = ids[~screen.visible(engine, ids)].tolist()
    path = next(file.path for file in release.record.files if file.first_id <= gone <= file.last_id)
    table = store.read_table(release.path(path), ["id", "URL"])
    assert table["URL"][table["id"].to_pylist().index(gone)].as_py() == sample(NAMED["md5"])["URL"]
    engine.release = "other"
    assert screen.visible(engine, ids).all()


def test_an_apply_deletes_the_scans_of_its_lists(release: Release, tmp_path: Path) -> None:
    store = make_crawl(tmp_path, 3)
    make_release(store)
    arguments = ["takedown", "add", "--store", store.uri, "--md5", sample(0)["md5"], "--reason", "csam"]
    added = CliRunner().invoke(app, arguments)
    assert "dataset takedown scan" in added.stderr
    scanned = CliRunner().invoke(app, ["takedown", "scan", "--store", store.uri, "--json"])
    assert json.loads(scanned.stdout)["releases"][0]["rows"] == 1
    assert CliRunner().invoke(app, ["takedown", "scan", "--store", store.uri]).stdout == "laion: no list to scan\n"
    apply_takedowns(store, "laion")
    assert store.list(scans_folder("laion")) == []
    assert hidden(open_release(store, "laion")) == set()
