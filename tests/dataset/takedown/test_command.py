"""`dataset takedown status` and `apply` report the lists to apply and the rows that were removed."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from dataset.formats.takedowns import Entry
from dataset.main import app
from dataset.store.store import Store
from dataset.takedown.plan import open_work
from dataset.takedown.requests import file_request
from tests.takedowns import make_crawl, make_release, sample


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_crawl(tmp_path_factory.mktemp("store"), 3)
    make_release(store)
    return store


def run(store: Store, *words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["takedown", *words, "--store", store.uri, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def test_status_says_what_is_to_be_done_until_it_is_done(store: Store) -> None:
    assert run(store, "status")["releases"][0]["lists_to_apply"] == 0
    file_request(store, [Entry(kind="md5", value=sample(1)["md5"])], "csam")
    assert run(store, "status", "laion")["releases"][0]["lists_to_apply"] == 1
    assert open_work(store, "laion") is not None
    assert run(store, "status")["releases"][0] == {
        "name": "laion", "version": "1.0.0", "lists_to_apply": 1, "lists_to_scan": 1, "scanned": 0, "to_scan": 0,
        "applying": "scanning", "done": 0, "of": 6,
    }  # fmt: skip
    done = run(store, "apply")["releases"][0]
    assert (done["version"], done["removed"], done["lists"]) == ("2.0.0", {"csam": 1}, 1)
    assert run(store, "status")["releases"][0]["lists_to_apply"] == 0
    assert run(store, "apply", "laion") == {"releases": [{"name": "laion", "lists": 0}]}
    plain = CliRunner().invoke(app, ["takedown", "status", "--store", store.uri])
    assert "laion 2.0.0: all lists are applied" in plain.stdout


def test_a_release_that_is_not_there_is_named(store: Store) -> None:
    result = CliRunner().invoke(app, ["takedown", "apply", "strange", "--store", store.uri])
    assert "releases/strange/release.json is missing" in str(result.exception)
