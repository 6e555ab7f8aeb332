"""A part and its scores: both or neither is written, in the same order whatever the order of the pairs."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dataset.formats.parts import KeptSample, ScoredPair, Verdict, host_of, list_columns, part_schema, write_part
from dataset.store.store import Store, StoreError

KEPT = ScoredPair(
    "000000000700002",
    "http://a.example/é.jpg",
    "a red star",
    Verdict.KEPT,
    0.3,
    KeptSample(600, 400, None, "nolang", 3, 5),
)
DROPPED = ScoredPair("000000000700001", "http://a.example/1.jpg", "a blue dot", Verdict.BELOW_THRESHOLD, 0.1)


def test_a_part_that_cannot_be_written_leaves_no_scores(tmp_path: Path) -> None:
    (tmp_path / "parts" / "9.parquet" / "in the way").mkdir(parents=True)
    store = Store.open(str(tmp_path))
    with pytest.raises(StoreError):
        write_part(store, "parts/9", [KEPT], shard="shards/7", metadata={})
    assert store.list("parts") == []


def test_the_order_in_which_pairs_were_scored_does_not_show(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    write_part(store, "a", [KEPT, DROPPED], shard="shards/7", metadata={"made": "here"})
    write_part(store, "b", [DROPPED, KEPT], shard="shards/7", metadata={"made": "here"})
    assert store.read("a.parquet") == store.read("b.parquet")
    assert store.read("a.scores.parquet") == store.read("b.scores.parquet")
    assert store.read_table("a.scores.parquet")["key"].to_pylist() == [DROPPED.key, KEPT.key]


def test_only_what_was_kept_is_in_the_part(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    write_part(store, "a", [KEPT, DROPPED], shard="shards/7", metadata={})
    (row,) = store.read_table("a.parquet").to_pylist()
    assert (row["URL"], row["WIDTH"], row["HEIGHT"], row["LANGUAGE"]) == (KEPT.url, 600, 400, None)
    assert store.read_table("a.scores.parquet").num_rows == 2


def test_a_row_has_everything_that_a_release_needs(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    sample = KeptSample(
        600,
        400,
        None,
        "nolang",
        3,
        5,
        sha256="ab" * 32,
        md5="cd" * 16,
        pdq=b"\x0f" * 32,
        dhash=-(2**63),
        final_url="https://CDN.b.example:8443/é.jpg",
    )
    fetched = datetime(2026, 11, 26, 18, 0, 1, tzinfo=UTC)
    write_part(store, "a", [replace(KEPT, sample=sample)], shard="shards/7", metadata={}, fetched=fetched)
    (row,) = store.read_table("a.parquet").to_pylist()
    assert (row["sha256"], row["md5"], row["sha1"], row["pdq"]) == ("ab" * 32, "cd" * 16, None, b"\x0f" * 32)
    assert (row["subset"], row["dhash"], row["final_host"]) == ("nolang", -(2**63), "cdn.b.example")
    assert row["fetched"] == fetched


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a.example/x", "a.example"),
        ("http://u:p@A.example:80", "a.example"),
        ("http://[2001:DB8::1]:8080/x", "2001:db8::1"),
        ("http://[nothing", None),
        ("nothing", None),
    ],
)
def test_a_host_has_neither_port_nor_credentials(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_a_lists_columns_are_carried_in_their_types_next_to_ours(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    types = {
        "uid": "string",
        "big": "uint64",
        "boxes": "list<float>",
        "SIMILARITY": "double",
        "id": "int64",
        "list_id": "int8",
    }
    said = {"uid": "x", "big": 2**64 - 1, "boxes": [0.5, 1.5], "SIMILARITY": 0.9, "id": 7}
    sample = KeptSample(600, 400, None, "nolang", 3, 5, extra=said)
    write_part(store, "a", [replace(KEPT, sample=sample)], shard="s", metadata={}, extra=types)
    part = store.read_table("a.parquet")
    assert part.schema.remove_metadata().equals(part_schema(types))
    assert [(column.name, str(column.type)) for column in list_columns(part.schema)] == [
        ("uid", "string"),
        ("big", "uint64"),
        ("boxes", "list<element: float>"),
        ("list_SIMILARITY", "double"),
        ("list_id", "int64"),
        ("list_list_id", "int8"),
    ]
    (row,) = part.to_pylist()
    assert (row["uid"], row["big"], row["boxes"], row["similarity"]) == ("x", 2**64 - 1, [0.5, 1.5], 0.3)
    assert (row["list_SIMILARITY"], row["list_id"], row["list_list_id"]) == (0.9, 7, None)


def test_a_part_without_a_row_has_the_same_columns(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    write_part(store, "a", [DROPPED], shard="s", metadata={}, extra={"uid": "string"})
    assert store.read_table("a.parquet").schema.remove_metadata().equals(part_schema({"uid": "string"}))
