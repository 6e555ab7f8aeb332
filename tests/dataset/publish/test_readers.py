"""A release is read by the programs that people use: real packages, some in separate environments."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from dataset.formats.releases import ROW_GROUP_ROWS, FileKind, Release, open_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.store.store import Store
from tests.parts import MadeStore, in_parts, make_pair
from tests.readers import reader

BATCH = "2026-11-26"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    made = MadeStore(Store.open(str(tmp_path_factory.mktemp("readers") / "store")))
    pairs = [make_pair(seed, subset=("en", "multi", "nolang")[seed % 3]) for seed in range(900)]
    for pair in pairs[::5]:
        pair["punsafe"] = None
    for pair in pairs[::7]:
        pair["pdq"] = None
    made.put_run("crawl", in_parts(pairs), extra={"width": "int32", "words": "list<string>"})
    variants = {"safe": "punsafe < 0.45"}
    request = Request(name="laion", inputs=[InputName(".", "crawl")], batch=BATCH, variants=variants, rows_per_file=80)
    publish(made.store, request)
    return open_release(made.store, "laion")


@pytest.fixture(scope="module")
def folder(release: Release) -> Path:
    return Path(release.store.uri.removeprefix("file://")) / release.folder


def rows_of(release: Release, kind: FileKind, subset: str) -> list[dict[str, Any]]:
    """Read the rows of a kind and subset by pyarrow, in the order of their ids."""
    paths = [release.path(file.path) for file in release.files(kind, subset=subset)]
    return [row for path in paths for row in release.store.read_table(path).to_pylist()]


CONFIGS = {
    "en": (FileKind.DATA, "en"),
    "multi": (FileKind.DATA, "multi"),
    "extended-nolang": (FileKind.EXTENDED, "nolang"),
    "safe-multi": (FileKind.VARIANT, "multi"),
}
READ_BY_DATASETS = """
import json, sys
import datasets
datasets.disable_progress_bars()
folder, cache, names = sys.argv[1], sys.argv[2], sys.argv[3:]
found = {}
for name in names:
    split = datasets.load_dataset_builder(folder, name, cache_dir=cache).info.splits["train"]
    whole = datasets.load_dataset(folder, name, split="train", cache_dir=cache)
    streamed = list(datasets.load_dataset(folder, name, split="train", streaming=True))
    assert streamed == list(whole)
    found[name] = {"said": split.num_examples, "rows": whole.to_list()}
print(json.dumps({"names": datasets.get_dataset_config_names(folder), "found": found}, default=repr))
"""


def test_datasets_finds_every_configuration_and_reads_it_streaming_or_not(
    release: Release, folder: Path, tmp_path: Path
) -> None:
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-W", "ignore", "-c", READ_BY_DATASETS, str(folder), str(tmp_path / "cache"), *CONFIGS]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=offline)
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["names"] == [
        f"{prefix}{subset}" for prefix in ("", "safe-", "extended-") for subset in ("en", "multi", "nolang")
    ]
    for name, (kind, subset) in CONFIGS.items():
        expected = json.loads(json.dumps(rows_of(release, kind, subset), default=repr))
        found = told["found"][name]
        assert found["said"] == len(expected) > 0
        ids = [row["id"] for row in found["rows"]]
        assert ids == [row["id"] for row in expected]
        for name_of_column in expected[0].keys() - {"fetched"}:  # its time zone is told in other words
            assert [row[name_of_column] for row in found["rows"]] == [row[name_of_column] for row in expected]


def test_duckdb_reads_and_joins_it(release: Release, folder: Path) -> None:
    expected = rows_of(release, FileKind.DATA, "multi")
    with duckdb.connect() as connection:
        data = f"read_parquet('{folder}/data/*/*/*.parquet', union_by_name=true)"
        (counted,) = connection.execute(f"SELECT count(*), count(DISTINCT id) FROM {data}").fetchall()
        assert counted == (900, 900)
        wanted = expected[40]
        (found,) = connection.execute(f"SELECT URL, TEXT FROM {data} WHERE hash = ?", [wanted["hash"]]).fetchall()
        assert found == (wanted["URL"], wanted["TEXT"])
        joined = connection.execute(
            f"SELECT count(*), count(pdq) FROM {data} JOIN "
            f"read_parquet('{folder}/extended/*/*/*.parquet') AS extended USING (id)"
        ).fetchall()
        known = [row["pdq"] for s in ("en", "multi", "nolang") for row in rows_of(release, FileKind.EXTENDED, s)]
        assert joined == [(900, sum(pdq is not None for pdq in known))]


def test_polars_reads_it(release: Release, folder: Path) -> None:
    script = """
import json, sys
import polars
data = polars.scan_parquet(sys.argv[1] + "/data/multi/**/*.parquet")
extended = polars.scan_parquet(sys.argv[1] + "/extended/multi/**/*.parquet")
joined = data.join(extended, on="id").sort("id").collect()
unsafe = data.filter(polars.col("punsafe") > 0.5).select(polars.len()).collect().item()
print(json.dumps({"rows": joined.select("id", "URL", "hash", "list_width", "words").to_dicts(), "unsafe": unsafe}))
"""
    found = run_reader("polars", script, str(folder))
    data = rows_of(release, FileKind.DATA, "multi")
    extended = {row["id"]: row for row in rows_of(release, FileKind.EXTENDED, "multi")}
    assert found["rows"] == [
        {"id": row["id"], "URL": row["URL"], "hash": row["hash"], "list_width": extended[row["id"]]["list_width"],
         "words": extended[row["id"]]["words"]}
        for row in data
    ]  # fmt: skip
    assert found["unsafe"] == sum(row["punsafe"] is not None and row["punsafe"] > 0.5 for row in data)


def test_the_reader_of_img2dataset_gets_url_text_and_sha256_of_each_row(
    release: Release, folder: Path, tmp_path: Path
) -> None:
    script = """
import json, sys
import pyarrow
from img2dataset.reader import Reader
reader = Reader(sys.argv[1], "parquet", "URL", "TEXT", "sha256", "sha256", ["id", "similarity"], 50, set(), sys.argv[2])
rows = []
for shard, path in reader:
    rows += pyarrow.ipc.open_file(path).read_all().to_pylist()
print(json.dumps(rows))
"""
    (tmp_path / "shards").mkdir()
    found = run_reader("img2dataset", script, str(folder / "data" / "multi" / BATCH), str(tmp_path / "shards"))
    assert found == [
        {"id": row["id"], "similarity": row["similarity"], "caption": row["TEXT"], "sha256": row["sha256"],
         "url": row["URL"]}
        for row in rows_of(release, FileKind.DATA, "multi")
    ]  # fmt: skip


def run_reader(name: str, script: str, *arguments: str) -> Any:
    """Run a script by the Python of a reader's environment, and read the JSON of its last line."""
    environment = os.environ | {"PYTHONPATH": "", "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [str(reader(name)), "-W", "ignore", "-c", script, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_each_public_table_keeps_the_rules_of_the_hubs_viewer(release: Release, folder: Path) -> None:
    """Source: dataset-viewer, libviewer/src/parquet.rs: small row groups, a page index, the mark of chunking."""
    for kind in (FileKind.DATA, FileKind.EXTENDED, FileKind.VARIANT):
        for file in release.files(kind):
            metadata = pq.read_metadata(folder / file.path)
            assert metadata.metadata[b"use_content_defined_chunking"] == b"true"
            for group in map(metadata.row_group, range(metadata.num_row_groups)):
                assert group.num_rows <= ROW_GROUP_ROWS
                assert group.total_byte_size <= 100_000_000
                for column in map(group.column, range(group.num_columns)):
                    assert column.has_offset_index
                    assert column.has_column_index
