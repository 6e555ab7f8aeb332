"""Deny lists: no release contains a row that a list names."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from dataset.errors import DatasetError
from dataset.formats.deny_lists import DENY_SCHEMA, DenyKind, DenyListError, list_deny_files, write_deny_list
from dataset.formats.releases import FileKind, open_release
from dataset.publish.deny import DenyRules
from dataset.publish.hosts import normal_host
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.store.store import Store
from tests.parts import MadeStore, in_parts, make_pair


@pytest.fixture
def made(tmp_path: Path) -> MadeStore:
    made = MadeStore(Store.open(str(tmp_path / "store")))
    made.put_run("crawl", in_parts([make_pair(seed, sha1=sha1(seed)) for seed in range(100)]))
    return made


def sha1(seed: int) -> str:
    return hashlib.sha1(str(seed).encode()).hexdigest()


def deny(store: Store, *entries: tuple[DenyKind, str]) -> str:
    rows = [{"kind": kind, "value": value, "reason": "asked", "time": datetime.now(UTC)} for kind, value in entries]
    return write_deny_list(store, pa.Table.from_pylist(rows, schema=DENY_SCHEMA))


def published(made: MadeStore, name: str = "laion", run: str = "crawl", batch: str = "2026-11-26") -> set[str]:
    publish(made.store, Request(name=name, inputs=[InputName(".", run)], batch=batch))
    release = open_release(made.store, name)
    tables = [made.store.read_table(release.path(file.path)) for file in release.files(FileKind.DATA, batch=batch)]
    return set(pa.concat_tables(tables)["URL"].to_pylist())


def near(pdq: bytes, bits: int) -> str:
    """A PDQ that differs in so many bits."""
    return (int.from_bytes(pdq) ^ ((1 << bits) - 1)).to_bytes(32).hex()


def test_each_kind_of_entry_keeps_its_rows_out(made: MadeStore) -> None:
    pairs = [make_pair(seed) for seed in range(100)]
    host = pairs[5]["URL"].split("/")[2]
    deny(made.store, (DenyKind.PAIR, str(pairs[0]["hash"])),
         (DenyKind.URL, hashlib.sha256(pairs[1]["URL"].encode()).hexdigest()))  # fmt: skip
    deny(made.store, (DenyKind.SHA256, pairs[2]["sha256"]), (DenyKind.MD5, pairs[3]["md5"]), (DenyKind.SHA1, sha1(7)),

         (DenyKind.PDQ, near(pairs[4]["pdq"], 31)), (DenyKind.PDQ, near(pairs[6]["pdq"], 32)),
         (DenyKind.HOST, host.removeprefix("www.")))  # fmt: skip
    found = published(made)
    denied = {
        pair["URL"] for pair in [*pairs[:5], pairs[7], *(pair for pair in pairs if pair["URL"].split("/")[2] == host)]
    }
    assert found == {pair["URL"] for pair in pairs} - denied
    assert open_release(made.store, "laion").record.batches[0].dropped["denied"] == len(denied)


def test_a_digest_on_several_lists_is_in_memory_once(tmp_path: Path) -> None:
    store, (first, second) = Store.open(str(tmp_path)), (make_pair(seed)["md5"] for seed in range(2))
    deny(store, (DenyKind.MD5, second))
    deny(store, (DenyKind.MD5, first), (DenyKind.MD5, second))
    rules = DenyRules.load(store, list_deny_files(store))
    assert rules.md5.tolist() == sorted(int(one[:16], 16) for one in (first, second))


def test_a_host_of_the_list_is_denied_where_a_redirect_led_there_too(made: MadeStore) -> None:
    made.put_run("moved", [[make_pair(1000, final_host="img.denied.example"), make_pair(1001)]])
    deny(made.store, (DenyKind.HOST, "denied.example"))
    assert published(made, run="moved") == {make_pair(1001)["URL"]}


def test_a_host_that_only_ends_alike_is_not_denied(made: MadeStore) -> None:
    made.put_run("alike", [[make_pair(1, URL="https://notdenied.example/a.jpg", final_host=None)]])
    deny(made.store, (DenyKind.HOST, "denied.example"))
    assert len(published(made, run="alike")) == 1


def test_lists_are_numbered_and_none_replaces_another(made: MadeStore) -> None:
    for seed in range(3):
        deny(made.store, (DenyKind.PAIR, str(seed)))
    assert list_deny_files(made.store) == ["deny/0000.parquet", "deny/0001.parquet", "deny/0002.parquet"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("pair", "x"), ("pair", str(2**63)), ("url", "https://example.com/"), ("md5", "0" * 31), ("sha256", "G" * 64),
     ("host", "Example.com"), ("host", "example.com/a"), ("person", "x"), ("md5", None)],
)  # fmt: skip
def test_an_entry_without_the_form_of_its_kind_is_refused_when_written_and_when_read(
    made: MadeStore, kind: str, value: str | None
) -> None:
    row = {"kind": kind, "value": value, "reason": "", "time": datetime.now(UTC)}
    table = pa.Table.from_pylist([row], schema=DENY_SCHEMA)
    with pytest.raises(DenyListError, match="correct that list"):
        write_deny_list(made.store, table)
    made.store.write_table("deny/0000.parquet", table)
    with pytest.raises(DatasetError, match=r"deny/0000\.parquet"):
        published(made)


def test_a_damaged_list_stops_the_publish(made: MadeStore) -> None:
    made.store.put("deny/0000.parquet", b"PAR1 and nothing else")
    with pytest.raises(DenyListError, match="without it nothing may be published"):
        published(made)


@pytest.mark.parametrize(
    "url",
    [
        "http://denied.example./1.jpg",
        "http://img.DENIED.example:80/1.jpg",
        "http:/denied.example/1.jpg",
        "http:denied.example/1.jpg",
        "http:///denied.example/1.jpg",
        "http:\\\\denied.example\\1.jpg",
        "http://denied.example\\@good.example/1.jpg",
        "//denied.example/1.jpg",
        " http://denied.example/1.jpg",
        "http://denied%2eexample/1.jpg",
        "http://xn--bcher-kva.example/1.jpg",
        "http://bücher.example/1.jpg",
        "http://user@[2001:DB8:0::1]/1.jpg",
        "http://user:pw@BÜCHER.example:8080/1.jpg",
        "http://0x7f.1/1.jpg",
    ],
)
def test_a_host_is_denied_however_a_url_spells_it(url: str) -> None:
    hosts = ("denied.example", "bücher.example", "[2001:db8::1]", "127.0.0.1")
    rules = DenyRules(hosts=frozenset(map(normal_host, hosts)))
    rows = pa.table({"URL": [url, "http://notdenied.example/denied.example"], "final_host": ["cdn.example", None]})
    assert rules.matches(rows).tolist() == [True, False]
