"""Trace a row of a release to its page."""

import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataset.errors import DatasetError
from dataset.formats.releases import STORES, FileKind, Release, open_release
from dataset.main import app
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.publish.trace import trace_row
from dataset.store.store import Store
from tests.manifests import put_manifest
from tests.parts import MadeStore, make_pair


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A release of one run: shards by jobs 10 and 11, filtered by jobs 21 and 20, links of pack 5."""
    made = MadeStore(Store.open(str(tmp_path)))
    for job, part_job in ((10, 21), (11, 20)):
        rows = [make_pair(job * 10 + at) | {"key": f"{job:010d}{at:05d}"} for at in range(3)]
        made.put_run("crawl", [rows])
        made.listed[-1]["job"] = part_job
        keys = {"key": [row["key"] for row in rows], "pack": [5] * 3, "pack_row": [job * 2 + at for at in range(3)]}
        made.store.write_table(f"crawl/shards/{job}.parquet", pa.table(keys))
        made.listed.append({"kind": "shard", "run": "crawl", "path": f"crawl/shards/{job}", "job": job})
    pages = pa.table({"page_url": [f"https://page.example/{row}" for row in range(40)]})
    made.store.write_table("crawl/packs/5.parquet", pages, {"wat": "crawl-data/x.wat.gz"})
    made.listed.append({"kind": "pack", "run": "crawl", "path": "crawl/packs/5", "output_id": 5})
    for at, listed in enumerate(made.listed):
        listed.setdefault("output_id", 100 + at)
    put_manifest(made.store, made.listed)
    publish(made.store, Request(name="laion", inputs=[InputName(".", "crawl")]))
    return open_release(made.store, "laion")


def test_every_row_leads_to_its_shard_part_pack_page_and_wat_file(release: Release) -> None:
    pages = {make_pair(job * 10 + at)["URL"]: (job, job * 2 + at) for job in (10, 11) for at in range(3)}
    for row_id in range(6):
        found = trace_row(release, row_id, release.store)
        assert found.url is not None
        job, pack_row = pages[found.url]
        assert (found.shard, found.pack, found.pack_row) == (f"crawl/shards/{job}", "crawl/packs/5", pack_row)
        assert (found.page, found.wat) == (f"https://page.example/{pack_row}", "crawl-data/x.wat.gz")
        assert found.part is not None
        assert found.key in release.store.read_table(f"{found.part}.parquet")["key"].to_pylist()
        assert (found.run, found.store) == ("crawl", ".")


def test_the_store_of_another_tracker_is_named_in_a_private_file_alone(release: Release, tmp_path: Path) -> None:
    for number, tracker in enumerate((UUID(int=7), UUID(int=8))):
        other = MadeStore(Store.open(str(tmp_path / f"other{number}")), tracker=tracker)
        other.put_run("more", [[make_pair(number * 100 + at + 500) for at in range(3)]])
        inputs = [InputName(other.store.uri, "more")]
        publish(release.store, Request(name="laion", inputs=inputs, batch=f"2027-01-0{number + 1}"))
    after = open_release(release.store, "laion")
    assert [one.store for one in after.record.inputs] == [".", "store-1", "store-2"]
    private = release.path(STORES)
    for path in release.store.list("releases/laion"):
        assert path == private or b"other0" not in release.store.read(path)
    for row_id, number in ((6, 0), (9, 1)):
        found = trace_row(after, row_id, release.store)
        assert (found.run, found.store) == ("more", str(tmp_path / f"other{number}"))
        assert found.part is not None
    release.store.delete(private)
    with pytest.raises(DatasetError, match=r"store-1, whose place only source/stores\.json says"):
        trace_row(after, 6, release.store)


def test_deleted_files_are_left_out_of_a_trace(release: Release) -> None:
    release.store.delete("crawl/packs/5.parquet")
    found = trace_row(release, 0, release.store)
    assert (found.page, found.wat) == (None, None)
    assert found.shard is not None


def test_an_id_that_no_row_has_is_said(release: Release) -> None:
    with pytest.raises(DatasetError, match="ids go from 0 to 5"):
        trace_row(release, 6, release.store)


def test_a_copy_without_its_private_files_names_the_store_to_ask(release: Release) -> None:
    record = replace(release.record, files=tuple(file for file in release.record.files if file.kind != FileKind.SOURCE))
    with pytest.raises(DatasetError, match=r"no file in source/ for the id 5: trace the row in the store"):
        trace_row(replace(release, record=record), 5, release.store)


def test_the_command_prints_one_json_object(release: Release) -> None:
    result = CliRunner().invoke(app, ["trace", "laion", "3", "--store", release.store.uri, "--json"])
    assert json.loads(result.stdout)["id"] == 3
    folder = f"{release.store.uri}/releases/laion"
    plain = CliRunner().invoke(app, ["trace", folder, "3", "--store", release.store.uri])
    assert f"    store  {release.store.uri}\n" in plain.stdout
    assert "crawl-data/x.wat.gz" in plain.stdout
