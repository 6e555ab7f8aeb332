"""What a request names is hidden from select and reshard at once."""

from pathlib import Path

import pyarrow as pa
import pytest

from dataset.formats.releases import Release
from dataset.formats.takedowns import FOUND_SCHEMA, Entry, found_folder
from dataset.select.reshard import reshard
from dataset.select.select import Request, Selection
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store
from dataset.takedown.requests import file_request
from dataset.takedown.screen import Screen
from tests.takedowns import PER_SHARD, make_crawl, make_release, sample

ROWS = 3 * PER_SHARD


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return make_release(make_crawl(tmp_path, 3))


def selected(release: Release, out: Path) -> set[str]:
    selection = Selection(ReleaseRows.open(release), Request(where="TRUE"), screen=Screen.of(release))
    record = selection.write(Store.open(str(out)))
    return {url for file in record.files for url in Store.open(str(out)).read_table(file.path)["URL"].to_pylist()}


def test_rows_that_a_url_hash_host_or_sha256_names_are_hidden_from_the_next_call(
    release: Release, tmp_path: Path
) -> None:
    named = [sample(seed) for seed in (0, PER_SHARD, 2 * PER_SHARD, 2 * PER_SHARD + 1)]
    entries = [
        Entry(kind="url", value=named[0]["URL"]),
        Entry(kind="hash", value=str(named[1]["hash"])),
        Entry(kind="sha256", value=named[2]["sha256"]),
        Entry(kind="host", value=named[3]["final_host"]),
    ]
    before = selected(release, tmp_path / "before")
    assert len(before) == ROWS
    file_request(release.store, entries, "privacy")
    gone = before - selected(release, tmp_path / "after")
    host = named[3]["final_host"]
    assert gone == {row["URL"] for row in map(sample, range(ROWS)) if row in named or row["final_host"] == host}


def test_a_row_that_an_md5_names_is_hidden_as_soon_as_an_apply_has_found_it(release: Release, tmp_path: Path) -> None:
    file_request(release.store, [Entry(kind="md5", value=sample(0)["md5"])], "csam")
    assert len(selected(release, tmp_path / "before")) == ROWS
    found = pa.table({"id": [7], "reason": ["csam"]}, schema=FOUND_SCHEMA)
    release.store.write_table(f"{found_folder('laion')}/000000.parquet", found)
    assert len(selected(release, tmp_path / "after")) == ROWS - 1


def test_a_selection_that_was_made_before_is_resharded_without_what_was_denied_since(
    release: Release, tmp_path: Path
) -> None:
    selected(release, tmp_path / "selection")
    file_request(release.store, [Entry(kind="url", value=sample(3)["URL"])], "privacy")
    record = reshard(
        release, Store.open(str(tmp_path / "selection")), Store.open(str(tmp_path / "tars")), screen=Screen.of(release)
    )
    assert (record.samples, record.removed, record.missing) == (ROWS - 1, 1, 0)
