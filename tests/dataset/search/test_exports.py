"""Exports: a job writes everything above a threshold as parquet, tells its progress, and can be cancelled."""

import csv
import io
import json
import threading
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset.search.screen import Screen
from tests.dataset.search.tiny import Client, served, tiny_engine

PATIENCE_SECONDS = 20.0


def ended(client: Client, name: str) -> Any:
    """Wait for the end of an export; its thread is joined by polling the job itself, without the network."""
    job = client.site.exports.get(name)
    with client.site.exports.changed:
        assert client.site.exports.changed.wait_for(
            lambda: job.state.value not in ("waiting", "running"), PATIENCE_SECONDS
        )
    return client.ask(f"/api/exports/{name}").json()


def test_everything_above_a_threshold_is_exported_with_all_columns() -> None:
    engine = tiny_engine()
    with served(engine, screen=Screen(np.array([15], np.int64))) as client:
        asked = {"terms": [{"id": 16}], "at_least": 0.1, "safe": False}
        made = client.ask("/api/exports", asked)
        assert made.status == 202
        name = made.json()["id"]
        assert made.headers["location"] == f"/api/exports/{name}"
        status = ended(client, name)
        table = pq.read_table(io.BytesIO(client.ask(f"/api/exports/{name}/file").body))
        similarities = engine.vectors @ engine.vectors[6]
        wanted = {int(at) + 10 for at in np.nonzero(similarities >= 0.1)[0]} - {15}
        assert {*table["id"].to_pylist()} == wanted
        assert (status["state"], status["rows"]) == ("done", len(wanted))
        assert table.column_names[:2] == ["id", "similarity_to_query"]
        assert {*table.column_names[2:]} == {*engine.columns}
        assert table["similarity_to_query"].to_pylist() == sorted(
            table["similarity_to_query"].to_pylist(), reverse=True
        )
        assert client.ask(f"/api/exports/{name}", method="DELETE").json()["state"] == "cancelled"
        assert client.ask(f"/api/exports/{name}/file").status == 409
        assert client.ask("/api/exports/unknown").status == 404


@pytest.mark.parametrize("fields", [{"filters": "min-width=1000"}, {"limit": 3, "columns": ["url"]}])
def test_an_export_of_few_rows_or_none_is_a_file_too(fields: dict[str, Any]) -> None:
    with served(tiny_engine()) as client:
        name = client.ask("/api/exports", {"terms": [{"id": 16}], **fields}).json()["id"]
        assert ended(client, name)["state"] == "done"
        table = pq.read_table(io.BytesIO(client.ask(f"/api/exports/{name}/file").body))
        assert len(table) == fields.get("limit", 0)


def test_named_rows_are_exported_in_their_order_without_hidden_ones() -> None:
    with served(tiny_engine(), screen=Screen(np.array([15], np.int64))) as client:
        refused: list[dict[str, Any]] = [
            {"ids": []},
            {"ids": [True]},
            {"ids": [1.5]},
            {"ids": [-1]},
            {"ids": [16], "at_least": 0.1},
        ]
        for wrong in refused:
            assert client.ask("/api/exports", wrong).json()["field"] == "ids"
        name = client.ask("/api/exports", {"ids": [20, 15, 12, 9_999], "columns": ["url"]}).json()["id"]
        assert ended(client, name)["rows"] == 2
        table = pq.read_table(io.BytesIO(client.ask(f"/api/exports/{name}/file").body))
        assert table.to_pylist() == [
            {"id": one, "similarity_to_query": None, "url": f"https://example.org/{one - 10}.jpg"} for one in (20, 12)
        ]


def test_an_export_is_csv_or_json_lines_with_the_same_rows() -> None:
    engine = tiny_engine()
    for row in engine.table:
        row["tags"] = ["a", "b"]
    engine.table[6]["caption"] = '=1+1, "quoted"'
    found = {}
    with served(engine) as client:
        for kind in ("parquet", "csv", "jsonl"):
            asked = {"terms": [{"id": 16}], "limit": 5, "format": kind}
            name = client.ask("/api/exports", asked).json()["id"]
            assert ended(client, name)["state"] == "done"
            answer = client.ask(f"/api/exports/{name}/file")
            assert f'filename="export.{kind}"' in answer.headers["content-disposition"]
            found[kind] = answer.body
        refused = client.ask("/api/exports", {"terms": [{"id": 16}], "format": "xlsx"})
        assert (refused.status, refused.json()["field"]) == (400, "format")
    table = pq.read_table(io.BytesIO(found["parquet"]))
    lines = [json.loads(line) for line in found["jsonl"].splitlines()]
    head, *rows = csv.reader(io.StringIO(found["csv"].decode(), newline=""))
    assert head == table.column_names
    assert [one["id"] for one in lines] == [int(row[0]) for row in rows] == table["id"].to_pylist()
    assert lines[0]["caption"] == '=1+1, "quoted"'
    assert rows[0][head.index("caption")] == '\'=1+1, "quoted"'
    assert lines[0]["tags"] == json.loads(rows[0][head.index("tags")]) == ["a", "b"]


def test_exports_of_one_address_are_few_and_one_that_waits_can_be_cancelled() -> None:
    blocked, released = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert released.wait(PATIENCE_SECONDS)

    engine = tiny_engine(before_search=block)
    with served(engine) as client:
        asked = {"terms": [{"id": 16}]}
        running, waiting = (client.ask("/api/exports", asked).json()["id"] for _ in range(2))
        refused = client.ask("/api/exports", asked)
        assert (refused.status, refused.headers["retry-after"]) == (429, "60")
        assert blocked.wait(PATIENCE_SECONDS)
        assert client.ask(f"/api/exports/{waiting}", method="DELETE").json()["state"] == "cancelled"
        assert client.ask(f"/api/exports/{running}", method="DELETE").json()["state"] == "cancelled"
        released.set()
        assert ended(client, running)["rows"] == 0
        third = client.ask("/api/exports", asked).json()["id"]
        assert ended(client, third)["state"] == "done"


def test_an_export_that_fails_says_why() -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    with served(tiny_engine(before_search=fail)) as client:
        name = client.ask("/api/exports", {"terms": [{"id": 16}]}).json()["id"]
        status = ended(client, name)
        assert (status["state"], status["message"]) == ("failed", "the disk is full")
