"""Rows that were taken down do not come back when the same WAT files are crawled again. `make crawled-again` runs it.

The small crawl is crawled and published; rows are removed by each kind of entry. Then a new tracker crawls the same WAT
files into a new store that has nothing but the deny lists, and publishes them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.releases import Release, open_release
from dataset.formats.takedowns import Entry
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.store.store import Store
from dataset.takedown.apply import apply_takedowns
from dataset.takedown.requests import file_request
from dataset.takedown.scan import Companions, data_files, read_rows
from dataset.takedown.verify import verify_takedowns
from tests.demo.crawl import Crawl
from tests.swarm.conftest import MODEL
from tests.swarm.swarm import Swarm, demo_recipe
from tracker.database.database import connect
from tracker.duties.deny_lists import register_deny_lists
from tracker.storage.manifest import write_manifest

COLUMNS = {"url": "URL", "hash": "hash", "sha256": "sha256", "md5": "md5", "sha1": "sha1", "pdq": "pdq"}
AT_INGEST = ("url", "hash", "host")
STAGES = ("extract", "ingest", "download", "filter")


@pytest.fixture
def make_swarm(make_database: Callable[[], str], crawl: Crawl, tmp_path: Path) -> Iterator[Callable[[str], Swarm]]:
    made: list[Swarm] = []

    def make(name: str) -> Swarm:
        folder = tmp_path / name
        folder.mkdir()
        made.append(Swarm(make_database(), folder, crawl, demo_recipe(MODEL)))
        made[-1].seed()
        return made[-1]

    yield make
    for swarm in made:
        swarm.close()


def crawl_and_publish(swarm: Swarm) -> Release:
    swarm.finish(*STAGES)
    with connect(swarm.database) as admin:
        write_manifest(admin, swarm.store)
    store = Store.open(swarm.store)
    publish(store, Request(name="small", inputs=[InputName(".", "small")]))
    return open_release(store, "small")


def rows_of(release: Release) -> dict[int, dict[str, object]]:
    """Return the rows by id, with their digests and hosts."""
    wanted = [*COLUMNS.values(), "final_host"]
    tables = [rows for file in data_files(release) for rows in read_rows(release, Companions(release), file, wanted)]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def entries_for(rows: dict[int, dict[str, object]]) -> dict[str, Entry]:
    """Return an entry of each kind, for different rows; the host is that of the fewest rows."""
    hosts = [str(row["final_host"]) for row in rows.values()]
    host = min(sorted({*hosts}), key=hosts.count)
    others = [row for row in rows.values() if row["final_host"] != host]
    found = {"host": Entry(kind="host", value=host)}
    for (kind, column), row in zip(COLUMNS.items(), others, strict=False):
        value = row[column]
        found[kind] = Entry(kind=kind, value=value.hex() if isinstance(value, bytes) else str(value))
    return found


def test_rows_that_were_taken_down_do_not_come_back_with_the_same_wat_files(
    make_swarm: Callable[[str], Swarm],
) -> None:
    first = crawl_and_publish(make_swarm("first"))
    before = rows_of(first)
    gone: dict[str, set[str]] = {}
    entries = entries_for(before)
    for kind, entry in entries.items():
        left = rows_of(open_release(first.store, "small"))
        file_request(first.store, [entry], kind)
        apply_takedowns(first.store, "small")
        now = rows_of(open_release(first.store, "small"))
        gone[kind] = {str(left[one]["URL"]) for one in left.keys() - now.keys()}
    apply_takedowns(first.store, "small", again=True, everything=True)
    assert verify_takedowns(first.store, "small", everything=True).is_clean
    assert all(gone.values()), gone

    swarm = make_swarm("second")
    store = Store.open(swarm.store)
    for path in list_deny_files(first.store):
        store.put(path, first.store.read(path))
    with connect(swarm.database) as admin:
        assert len(register_deny_lists(admin, swarm.store)) == len(entries)
    second = crawl_and_publish(swarm)
    found = swarm.audit()
    assert found.holds, found.differences
    results = swarm.results()
    denied = set().union(*gone.values())
    came_back = {kind: [url for url in urls if url in results.kept] for kind, urls in gone.items()}
    assert not any(came_back.values()), came_back
    assert {kind: [url for url in gone[kind] if url in results.outcomes] for kind in AT_INGEST} == {
        kind: [] for kind in AT_INGEST
    }
    assert not denied & {str(row["URL"]) for row in rows_of(second).values()}
    assert {str(row["URL"]) for row in rows_of(second).values()} == {
        str(row["URL"]) for row in before.values()
    } - denied
    assert second.record.batches[0].dropped.get("denied", 0) == 0  # they were refused before, not by publish
    print({kind: len(urls) for kind, urls in gone.items()}, "removed;", len(rows_of(second)), "rows came again")
