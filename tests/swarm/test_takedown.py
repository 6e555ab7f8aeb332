"""Entries that are filed while the swarm is at work are refused by every stage from its next job, without a restart."""

import hashlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence

import pytest

from dataset.formats.parts import pair_hash
from dataset.formats.takedowns import Entry
from dataset.store.store import Store
from dataset.takedown.requests import file_request
from tests.demo.planting import Link
from tests.demo.plants import Pair
from tests.swarm.swarm import DEADLINE_SECONDS, Swarm
from tests.tracker.filling import scalar
from tracker.database.database import Connection

DONE = "SELECT NOT EXISTS (SELECT FROM tracker.job WHERE queue = %s AND state IN ('ready', 'leased'))"
NONE_WAITING = "SELECT NOT EXISTS (SELECT FROM tracker.candidate) AND NOT EXISTS (SELECT FROM tracker.again)"


@pytest.fixture
def serve(swarm: Swarm) -> Iterator[None]:
    """`tracker serve`, at work."""
    command = [sys.executable, "-c", "from tracker.main import main; main()", "serve", "--every-seconds", "0.2"]
    environment = os.environ | {"SHOAL_DATABASE_URL": swarm.database, "SHOAL_STORE": swarm.store, "SHOAL_HTTP": "off"}
    with (swarm.folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0, swarm.logs()


def pause(admin: Connection, queue: str, *, paused: bool) -> None:
    admin.execute(
        "INSERT INTO tracker.control (queue, paused) VALUES (%s, %s) ON CONFLICT (queue) DO UPDATE SET paused = %s",
        (queue, paused, paused),
    )


def deny(swarm: Swarm, admin: Connection, *entries: Entry) -> None:
    """File a request, and wait until the tracker has registered its list."""
    store = Store.open(swarm.store)
    before = scalar(admin, "SELECT count(*) FROM tracker.hash_list")
    file_request(store, entries, "privacy")
    swarm.run_until(admin, swarm.workers[0], "SELECT count(*) > %s FROM tracker.hash_list", before)


def digest(link: Link, kind: str) -> Entry:
    with urllib.request.urlopen(link.url, timeout=10) as answer:
        return Entry(kind=kind, value=hashlib.new(kind, answer.read()).hexdigest())


def url(link: Link) -> Entry:
    return Entry(kind="url", value=link.url)


def test_each_stage_refuses_from_its_next_job_what_was_filed_while_it_ran(
    swarm: Swarm, admin: Connection, serve: None
) -> None:
    pause(admin, "download", paused=True)
    pause(admin, "filter", paused=True)
    running = [swarm.start("download"), swarm.start("filter")]
    swarm.finish("extract")
    links: Sequence[Link] = [link for link in swarm.crawl.links if link.pair is Pair.MATCHED]
    links = [link for link in links if sum(one.url == link.url for one in swarm.crawl.links) == 1]
    at_ingest, at_download, by_picture, at_filter = links[:2], links[2:3], links[3:6], links[6:8]
    pair = Entry(kind="hash", value=str(pair_hash(at_ingest[1].url, at_ingest[1].caption)))
    deny(swarm, admin, url(at_ingest[0]), pair)
    swarm.finish("ingest")
    urls = [link.url for link in at_ingest]
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate WHERE url = ANY (%s)", urls) == 0
    kinds = ("sha256", "md5", "sha1")
    deny(swarm, admin, url(at_download[0]), *map(digest, by_picture, kinds))
    pause(admin, "download", paused=False)
    swarm.run_until(admin, running[0], f"{NONE_WAITING} AND ({DONE})", "download")
    pair = Entry(kind="hash", value=str(pair_hash(at_filter[1].url, at_filter[1].caption)))
    deny(swarm, admin, url(at_filter[0]), pair)
    pause(admin, "filter", paused=False)
    swarm.run_until(admin, running[1], DONE, "filter")
    for worker in running:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_SECONDS) == 0, swarm.logs()
    found = swarm.audit()
    assert found.holds, found.differences
    results = swarm.results()
    gone = [*at_ingest, *at_download, *by_picture, *at_filter]
    assert [link.url for link in gone if link.url in results.outcomes or link.url in results.kept] == []
    assert results.outcomes[""].count("blocked") == len(at_download) + len(by_picture)
    assert results.outcomes[""].count("success") == len(at_filter)  # as they ended, before they were denied
    others = {link.url for link in links[8:] if "success" in results.outcomes[link.url]}
    assert len(others & set(results.kept)) > 0.8 * len(others)
