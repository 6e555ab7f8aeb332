"""`tracker serve` puts a deny list into force: workers load it, hosts are blocked, and the log names nobody."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset.candidates.urls import host_of
from dataset.formats.parts import pair_hash
from dataset.formats.takedowns import Entry
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store
from dataset.takedown.requests import file_request
from tracker.database.database import Connection
from tracker.duties.deny_lists import register_deny_lists
from tracker.duties.serve import tick
from tracker.protocol.session import Session
from tracker.storage.deny_lists import DenyListError

URL, HOST = "https://example.com/jane.jpg", "bad.example"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def loaded(store: Store, worker: Session) -> HashLists:
    lists = worker.hash_lists()
    return HashLists.load(store, lists, sha256=lists)


def test_every_kind_of_entry_reaches_workers_with_the_next_round(
    store: Store, admin: Connection, register: Callable[[str], Session]
) -> None:
    worker = register("download")
    file_request(
        store,
        [Entry(kind="url", value=URL), Entry(kind="hash", value=str(pair_hash("https://a.example/1", "cat"))),
         Entry(kind="host", value=HOST), Entry(kind="sha256", value="a" * 64), Entry(kind="md5", value="b" * 32),
         Entry(kind="sha1", value="c" * 40), Entry(kind="pdq", value="d" * 64)],
        "privacy",
    )  # fmt: skip
    tick(admin, store.uri)
    known = loaded(store, worker)
    assert known.matches(sha256="a" * 64)
    assert known.matches(md5="b" * 32)
    assert known.matches(sha1="c" * 40)
    assert known.matches(pdq="d" * 64)
    assert not known.matches(sha256="b" * 64, md5="a" * 32, sha1="a" * 40, pdq="a" * 64)
    assert known.names_link(URL, "any")
    assert known.names_link("https://a.example/1", "cat")
    assert known.names_link(f"http://img.{HOST}:8080/x")
    assert not known.names_link("https://a.example/1", "dog")
    assert not known.names_link(f"https://not{HOST}/x", "cat")
    assert host_of(f"http://img.{HOST}/") == f"img.{HOST}"
    version, blocked, _ = worker.blocks(0)
    assert (version, blocked) == (1, [HOST])


def test_a_list_is_registered_once_and_the_log_names_no_host_and_no_hash(store: Store, admin: Connection) -> None:
    request = file_request(store, [Entry(kind="host", value=HOST), Entry(kind="md5", value="b" * 32)], "privacy")
    (registered,) = register_deny_lists(admin, store.uri)
    assert (registered.path, registered.entries, registered.hosts) == (request.deny, 2, 1)
    assert register_deny_lists(admin, store.uri) == []
    rows = admin.execute("SELECT * FROM tracker.change").fetchall()
    said = json.dumps([{key: str(value) for key, value in row.items()} for row in rows])
    assert HOST not in said
    assert "bbbb" not in said
    assert len(store.list("hash_lists")) == 1


def test_a_list_that_was_removed_comes_back_and_a_damaged_one_is_said(store: Store, admin: Connection) -> None:
    file_request(store, [Entry(kind="md5", value="b" * 32)], "privacy")
    register_deny_lists(admin, store.uri)
    admin.execute("DELETE FROM tracker.hash_list")
    assert len(register_deny_lists(admin, store.uri)) == 1
    store.put("deny/0001-x.parquet", b"PAR1")
    with pytest.raises(DenyListError, match="restore it"):
        register_deny_lists(admin, store.uri)
    tick(admin, store.uri)  # says so in the log, and goes on


def test_a_host_that_cannot_be_blocked_does_not_keep_the_rest_of_its_list_out(
    store: Store, admin: Connection, register: Callable[[str], Session]
) -> None:
    worker = register("download")
    hosts = ["localhost", "[2001:db8::1]", HOST]
    file_request(store, [*(Entry(kind="host", value=host) for host in hosts), Entry(kind="md5", value="b" * 32)], "x")
    register_deny_lists(admin, store.uri)
    assert worker.blocks(0)[1] == ["2001:db8::1", HOST] or worker.blocks(0)[1] == [HOST, "2001:db8::1"]
    known = loaded(store, worker)
    assert known.matches(md5="b" * 32)
    for url in ("http://localhost/a.jpg", "http://[2001:db8::1]/a.jpg", f"https://{HOST}/"):
        assert known.names_link(url)


def test_sixteen_bytes_of_an_entry_are_the_numbers_that_workers_compare(store: Store, admin: Connection) -> None:
    digests = [hashlib.sha256(str(at).encode()).hexdigest() for at in range(300)]
    file_request(store, [Entry(kind="sha256", value=digest) for digest in digests], "csam")
    register_deny_lists(admin, store.uri)
    known = HashLists.load(store, store.list("hash_lists"))
    assert all(known.matches(sha256=digest) for digest in digests)
    assert not any(known.matches(sha256=digest[::-1]) for digest in digests)
