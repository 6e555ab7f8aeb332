"""A part and its scores: both or neither, in one order whatever order they came in."""

from pathlib import Path

import pytest

from dataset.formats.parts import KeptSample, ScoredPair, Verdict, write_part
from dataset.store.store import Store, StoreError

KEPT = ScoredPair(
    "000000000700002", "http://a.example/é.jpg", "a red star", Verdict.KEPT, 0.3, KeptSample(600, 400, None, 3, 5)
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
