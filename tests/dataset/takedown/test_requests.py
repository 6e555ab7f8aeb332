"""Requests: in force at once, private, and never written incompletely."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset.errors import DatasetError
from dataset.formats.deny_lists import list_deny_files, read_deny_list
from dataset.formats.takedowns import LOG, PENDING, Entry, RequestState
from dataset.main import app
from dataset.store.store import Store
from dataset.takedown.requests import decide, file_request, list_requests, pending_entries

URL = "https://Example.com/a b.jpg"
SHA256 = hashlib.sha256(b"picture").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def denied(store: Store) -> set[tuple[str, str]]:
    tables = [rows for path in list_deny_files(store) for rows in read_deny_list(store, path)]
    return {(row["kind"], row["value"]) for table in tables for row in table.to_pylist()}


def url_hash(url: str) -> tuple[str, str]:
    return "url", hashlib.sha256(url.encode()).hexdigest()


def everything(store: Store, folder: str = "") -> bytes:
    return b"".join(store.read(path) for path in store.list(folder))


def test_a_url_is_denied_as_it_was_given_and_in_its_normal_form(store: Store) -> None:
    file_request(store, [Entry(kind="url", value=URL)], "privacy")
    assert denied(store) == {url_hash(URL), url_hash("https://example.com/a%20b.jpg")}


def test_every_kind_of_option_becomes_an_entry(store: Store) -> None:
    options = {"url": "https://a.example/1", "hash": "-5", "host": "Bücher.Example", "sha256": SHA256.upper(),
               "md5": "a" * 32, "sha1": "b" * 40, "pdq": "c" * 64}  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["takedown", "add", *words, "--reason", "privacy", "--store", store.uri, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["entries"] == dict.fromkeys(("host", "md5", "pair", "pdq", "sha1", "sha256", "url"), 1)
    assert denied(store) == {url_hash("https://a.example/1"), ("pair", "-5"), ("host", "xn--bcher-kva.example"),
                             ("sha256", SHA256), ("md5", "a" * 32), ("sha1", "b" * 40), ("pdq", "c" * 64)}  # fmt: skip


def test_a_text_file_says_by_each_line_what_it_is(store: Store, tmp_path: Path) -> None:
    lines = ["# asked on Monday", "", " https://a.example/1 ", "a" * 32, "B" * 40, SHA256, "-77", "bad.example"]
    file = tmp_path / "list.txt"
    file.write_text("\n".join(lines))
    arguments = ["takedown", "add", "--file", str(file), "--reason", "csam", "--store", store.uri]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code != 0
    assert "Line 6" in str(refused.exception)
    assert list_deny_files(store) == []
    assert CliRunner().invoke(app, [*arguments, "--kind", "sha256"]).exit_code == 0
    assert denied(store) == {url_hash("https://a.example/1"), ("md5", "a" * 32), ("sha1", "b" * 40),
                             ("sha256", SHA256), ("pair", "-77"), ("host", "bad.example")}  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_columns_of_a_table_name_the_kinds_and_empty_cells_are_passed_over(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"list.{suffix}"
    table = pa.table({"sha256": [SHA256, None], "hash": ["12", "13"], "other": ["x", "y"]})
    if suffix == "parquet":
        pq.write_table(table, file)
    else:
        mark = {"csv": ",", "tsv": "\t"}[suffix]
        file.write_text("\n".join(mark.join(row) for row in [("sha256", "hash", "other"), (SHA256, "12", "x"),
                                                               ("", "13", "y")]))  # fmt: skip
    CliRunner().invoke(
        app, ["takedown", "add", "--file", str(file), "--reason", "x", "--store", store.uri], catch_exceptions=False
    )
    assert denied(store) == {("sha256", SHA256), ("pair", "12"), ("pair", "13")}


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        ("url", "example.com/a", "is not a URL"),
        ("host", "example.com/a", "is not a host"),
        ("host", "*.example.com", "is not a host"),
        ("hash", "12x", "is not a pair's hash"),
        ("hash", str(2**63), "is not a pair's hash"),
        ("md5", "a" * 31, "a md5 has 32"),
        ("sha256", "g" * 64, "has 64 hexadecimal digits"),
    ],
)
def test_a_value_that_is_not_of_its_kind_is_refused_and_nothing_is_filed(
    store: Store, kind: str, value: str, sentence: str
) -> None:
    with pytest.raises(DatasetError, match=sentence):
        file_request(store, [Entry(kind="hash", value="1"), Entry(kind=kind, value=value)], "x")
    assert store.list() == []


@pytest.mark.parametrize("reason", ["", "see https://example.com/", "jane@example.com", "x" * 101, "a\nb"])
def test_a_reason_that_may_lead_to_somebody_is_refused(store: Store, reason: str) -> None:
    with pytest.raises(DatasetError, match="because it is published"):
        file_request(store, [Entry(kind="hash", value="1")], reason)


def test_the_log_says_when_why_how_many_and_by_whom_and_never_the_url(store: Store) -> None:
    request = file_request(
        store, [Entry(kind="url", value=URL), Entry(kind="host", value="secret.example")], "privacy", contact="Jane"
    )
    (path,) = store.list(LOG)
    event = json.loads(store.read(path))
    assert (event["reason"], event["event"], event["subject"]) == ("privacy", "accepted", request.id)
    assert event["entries"] == {"host": 1, "url": 2}
    assert event["time"]
    assert event["by"]
    assert b"example" not in everything(store, LOG).lower()
    assert b"Jane" not in everything(store, LOG)


def test_a_pending_request_is_in_force_only_when_accepted_and_then_its_urls_are_gone(store: Store) -> None:
    request = file_request(store, [Entry(kind="url", value=URL)], "privacy", by="search page", pending=True)
    assert denied(store) == set()
    assert [one.id for one in list_requests(store, pending=True)] == [request.id]
    assert pending_entries(store, request.id) == (Entry(kind="url", value=URL),)
    shown = CliRunner().invoke(app, ["takedown", "list", "--pending", "--store", store.uri])
    assert URL in shown.stdout
    result = CliRunner().invoke(app, ["takedown", "decide", request.id, "--accept", "--store", store.uri])
    assert result.exit_code == 0, result.output
    assert url_hash(URL) in denied(store)
    assert list_requests(store, pending=True) == []
    assert store.list(PENDING) == []
    assert URL.encode() not in everything(store)


def test_a_refused_request_leaves_neither_an_entry_nor_its_url(store: Store) -> None:
    request = file_request(store, [Entry(kind="url", value=URL)], "privacy", pending=True)
    decided = decide(store, request.id, accept=False, note="not ours")
    assert decided.state is RequestState.REFUSED
    assert denied(store) == set()
    assert URL.encode() not in everything(store)
    with pytest.raises(DatasetError, match="waits for a decision"):
        decide(store, request.id, accept=True)


def test_lists_of_requests_that_are_filed_at_one_time_do_not_replace_each_other(store: Store) -> None:
    requests = [file_request(store, [Entry(kind="hash", value=str(at))], "x") for at in range(3)]
    paths = list_deny_files(store)
    assert paths == [f"deny/{at:04d}-{one.id}.parquet" for at, one in enumerate(requests)]
