"""A link list from `tracker seed` through ingest and download to shards; nothing is lost."""

import gc
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset  # type: ignore[import-untyped]

from dataset.store.store import Store
from tests.demo.crawl import Crawl
from tests.file_server import serving_files
from tests.swarm.swarm import DEADLINE_SECONDS, Swarm, demo_recipe
from tests.tracker.filling import scalar, set_setting
from tracker.database.database import Connection, connect

MODEL = Path(__file__).parents[1] / "demo" / "clip"
EXTRA = {"similarity": pa.float64(), "hash": pa.int64(), "punsafe": pa.float32(), "width": pa.int32()}


@pytest.fixture
def swarm(database: str, crawl: Crawl, tmp_path: Path) -> Any:
    """A swarm without jobs."""
    made = Swarm(database, tmp_path, crawl, demo_recipe(MODEL))
    yield made
    made.close()


def tell(swarm: Swarm, command: str, *arguments: str) -> str:
    """Run a command that must succeed; return its output."""
    module = "tracker" if command in ("seed", "status", "lists", "manifest", "audit") else "dataset"
    done = subprocess.run(
        [sys.executable, "-c", f"from {module}.main import main; main()", command, *arguments],
        env=os.environ | {"SHOAL_DATABASE_URL": swarm.database, "SHOAL_STORE": swarm.store},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def links_of(swarm: Swarm) -> list[str]:
    """Return the small crawl's links except those that time out."""
    return sorted({link.url for link in swarm.crawl.links if link.outcome != "timeout"})


def write_list(swarm: Swarm, path: Path) -> pa.Table:
    """Write a list of the small crawl's links, each twice, with LAION's columns."""
    links = links_of(swarm)
    urls = [*links, *links, None, "not a url at all"]
    n = len(urls)
    table = pa.table(
        {
            "URL": urls,
            "TEXT": [f"caption {i}" for i in range(n)],
            "similarity": pa.array([i / 7 for i in range(n)], EXTRA["similarity"]),
            "hash": pa.array([2**62 + i for i in range(n)], EXTRA["hash"]),
            "punsafe": pa.array([None if i % 3 == 0 else i / 11 for i in range(n)], EXTRA["punsafe"]),
            "width": pa.array(range(n), EXTRA["width"]),
        }
    )
    pq.write_table(table, path, row_group_size=50)
    return table


def shards(swarm: Swarm) -> list[pa.Table]:
    store = Store.open(swarm.store)
    listed = store.read_table("manifest.parquet").to_pylist()
    return [store.read_table(f"{row['path']}.parquet") for row in listed if row["kind"] == "shard"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_a_list_ends_in_shards_with_its_columns_and_nothing_lost(
    swarm: Swarm, admin: Connection, tmp_path: Path
) -> None:
    table = write_list(swarm, tmp_path / "list.parquet")
    set_setting(admin, "again_seconds", 0)
    set_setting(admin, "max_tries", 2)
    set_setting(admin, "bloom_slots", 1)
    columns = ("--url-col", "URL", "--caption-col", "TEXT", "--extra-cols", ",".join(EXTRA))
    tell(swarm, "seed", str(tmp_path / "list.parquet"), *columns, "--run", "laion")
    swarm.finish("ingest", "download")

    found = swarm.audit()
    assert found.holds, (found.differences, swarm.logs())
    distinct = len(links_of(swarm))
    ended = sum(n for of in found.accounts.values() for n in of.finished.values())
    assert (found.to_json()["in"], ended) == (distinct, distinct)
    (of_list,) = json.loads(tell(swarm, "lists", "--json"))["lists"]
    assert (of_list["rows"], of_list["candidates"]) == (len(table), len(table) - 2)
    assert {reason: n for reason, n in of_list["dropped"].items() if n} == {"no_url": 1, "bad_url": 1}
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE queue = 'filter'") == 0
    assert scalar(admin, "SELECT tracker.is_idle('filter')")

    tell(swarm, "manifest")
    given = {row["hash"]: row for row in table.to_pylist()}
    rows = [row for shard in shards(swarm) for row in shard.to_pylist()]
    for shard in shards(swarm):
        assert shard.schema.field("list_width").type == pa.int32()
        assert [shard.schema.field(name).type for name in ("similarity", "hash", "punsafe")] == [*EXTRA.values()][:3]
    for row in rows:
        listed = given[row["hash"]]
        assert (row["url"], row["caption"]) == (listed["URL"], listed["TEXT"])
        assert [row[name] for name in ("similarity", "punsafe", "list_width")] == [
            listed[name] for name in ("similarity", "punsafe", "width")
        ]
    tars = sorted(f"file:{path}" for path in Path(swarm.store).rglob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).to_tuple("__key__", "jpg", "txt", "json"))
    assert len(samples) == sum(row["outcome"] == "success" for row in rows) > 0
    for key, _, caption, about in samples:
        said = json.loads(about)
        assert (said["key"], given[said["hash"]]["TEXT"]) == (key, caption.decode())
    gc.collect()  # its open files are this test's to forgive

    queue = json.loads(tell(swarm, "status", "--json"))["queues"]["filter"]
    assert (queue["ready"], queue["done"]) == (0, 0)
    tell(swarm, "report", "--out", str(tmp_path / "report.html"))
    assert "the run has no filter" in (tmp_path / "report.html").read_text()


def test_duplicates_are_kept_on_request_also_with_several_slots(
    swarm: Swarm, admin: Connection, tmp_path: Path
) -> None:
    table = write_list(swarm, tmp_path / "list.parquet")
    with connect(swarm.database) as connection:
        set_setting(connection, "bloom_slots", 3)
        connection.execute("INSERT INTO tracker.bloom (slot) VALUES (1), (2)")
    tell(swarm, "seed", str(tmp_path), "--url-col", "URL", "--keep-duplicates")
    swarm.finish("ingest")
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == len(table) - 2
    assert scalar(admin, "SELECT count(DISTINCT slot) FROM tracker.job WHERE payload ? 'pack'") == 3
    found = swarm.audit()
    assert found.holds, found.differences


def test_a_list_that_changed_since_it_was_seeded_is_not_read(swarm: Swarm, admin: Connection, tmp_path: Path) -> None:
    write_list(swarm, tmp_path / "list.parquet")
    set_setting(admin, "max_attempts", 1)
    tell(swarm, "seed", str(tmp_path / "list.parquet"), "--url-col", "URL")
    (tmp_path / "list.parquet").write_bytes(b"another")
    swarm.finish("ingest")
    assert "has changed since it was seeded" in str(scalar(admin, "SELECT error FROM tracker.job WHERE state = 'dead'"))
    assert swarm.audit().holds


def test_download_processes_share_a_list_and_a_killed_one_is_restarted(
    swarm: Swarm, admin: Connection, tmp_path: Path
) -> None:
    write_list(swarm, tmp_path / "list.parquet")
    for name, value in (("again_seconds", 0), ("max_tries", 2), ("batch_size", 20), ("lease_seconds", 4)):
        set_setting(admin, name, value)
    tell(swarm, "seed", str(tmp_path / "list.parquet"), "--url-col", "URL")
    swarm.finish("ingest")
    parent = swarm.start("download", "--until-idle", "--processes", "2")
    alive = "SELECT pid FROM tracker.worker WHERE kind = 'download'"
    while len(pids := [row["pid"] for row in admin.execute(alive.encode())]) < 2:
        assert parent.poll() is None, swarm.logs()
    os.kill(pids[0], signal.SIGKILL)
    assert parent.wait(DEADLINE_SECONDS) == 0, swarm.logs()
    assert "processes.died" in swarm.logs()
    assert " job.completed " in swarm.logs()
    assert " process=" in swarm.logs()
    found = swarm.audit()
    assert found.holds, found.differences
    assert (found.to_json()["pool"], found.to_json()["leased"]) == (0, 0)


def test_a_list_on_a_web_server_is_seeded_and_read_like_any_other(
    swarm: Swarm, admin: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    table = write_list(swarm, tmp_path / "list.parquet")
    text = "\n".join(links_of(swarm)).encode()
    with serving_files(
        **{"list.parquet": (tmp_path / "list.parquet").read_bytes(), "list.txt.gz": gzip.compress(text)}
    ) as web:
        tell(swarm, "seed", f"{web.url}/list.parquet", "--url-col", "URL", "--keep-duplicates", "--run", "parquet")
        tell(swarm, "seed", f"{web.url}/list.txt.gz?from=web", "--url-col", "url", "--keep-duplicates", "--run", "text")
        web.plan = [10**12, 10**12, 200]  # a part breaks off
        swarm.finish("ingest")
    counted = {row["run"]: row["candidates"] for row in json.loads(tell(swarm, "lists", "--json"))["lists"]}
    assert counted == {"parquet": len(table) - 2, "text": len(links_of(swarm))}
    assert swarm.audit().holds
