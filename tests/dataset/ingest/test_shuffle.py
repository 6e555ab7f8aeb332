from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from dataset.ingest.shuffle import ShuffleError, number_rows, shuffled_rows


def pack_of(pack: int, rows: int) -> pa.Table:
    urls = pa.array([f"https://{pack}.example/{row}" for row in range(rows)], pa.string())
    return number_rows(pa.table({"url": urls, "language": pa.nulls(rows, pa.string())}), pack)


def shuffle_packs(tables: list[pa.Table], seed: int) -> pa.Table:
    """All rows of all packs, as one subset."""
    with_subset = [table.append_column("subset", pa.array(["all"] * len(table), pa.string())) for table in tables]
    keep = [np.ones(len(table), np.bool_) for table in tables]
    return shuffled_rows(with_subset, keep, seed).subset("all")


def test_every_row_comes_out_once_and_whole() -> None:
    tables = [pack_of(7, 300), pack_of(8, 0), pack_of(9, 200)]
    mixed = shuffle_packs(tables, seed=1)
    assert mixed.schema == tables[0].schema
    assert sorted(mixed.to_pylist(), key=lambda row: (row["pack"], row["pack_row"])) == [
        row for table in tables for row in table.to_pylist()
    ]
    assert all(row["url"] == f"https://{row['pack']}.example/{row['pack_row']}" for row in mixed.to_pylist())


def test_numbered_rows_say_their_pack_and_place() -> None:
    table = pack_of(2**40, 3)
    assert table.schema.field("pack").type == pa.int64()
    assert table.schema.field("pack_row").type == pa.int32()
    assert table["pack"].to_pylist() == [2**40] * 3
    assert table["pack_row"].to_pylist() == [0, 1, 2]


def test_a_seed_gives_one_order_and_another_seed_another() -> None:
    tables = [pack_of(1, 100), pack_of(2, 100)]
    assert shuffle_packs(tables, seed=1).equals(shuffle_packs(tables, seed=1))
    assert not shuffle_packs(tables, seed=1).equals(shuffle_packs(tables, seed=2))


def test_every_order_is_as_likely_as_any_other() -> None:
    tables = [pack_of(1, 2), pack_of(2, 1)]
    orders = Counter(tuple(shuffle_packs(tables, seed)["url"].to_pylist()) for seed in range(1200))
    assert len(orders) == 6
    chi_square = sum((count - 200) ** 2 / 200 for count in orders.values())
    assert chi_square < 20.5  # 5 degrees of freedom: exceeded once in 1,000 tries, and the seeds are fixed


def test_a_page_of_the_pool_holds_rows_of_many_packs() -> None:
    packs, page = 20, 40
    mixed = shuffle_packs([pack_of(pack, 200) for pack in range(packs)], seed=1)["pack"].to_numpy()
    distinct = [len(np.unique(mixed[start : start + page])) for start in range(0, len(mixed), page)]
    ideal = packs * (1 - (1 - 1 / packs) ** page)  # 17.4 of 20
    assert np.mean(distinct) == pytest.approx(ideal, rel=0.03)


def test_packs_of_different_schemas_are_refused() -> None:
    with pytest.raises(ShuffleError, match="schemas"):
        shuffle_packs([pack_of(1, 2), pa.table({"url": ["https://a.example"]})], seed=1)


def test_no_pack_at_all_is_refused() -> None:
    with pytest.raises(ShuffleError, match="nothing"):
        shuffle_packs([], seed=1)


def test_only_rows_to_keep_come_out_each_in_its_subset_and_mixed() -> None:
    tables = [pack_of(1, 300), pack_of(2, 0), pack_of(3, 200)]
    subsets = [pa.array([("en", "multi")[row % 2] for row in range(len(table))], pa.string()) for table in tables]
    tables = [table.append_column("subset", subset) for table, subset in zip(tables, subsets, strict=True)]
    keep = [np.arange(len(table)) % 3 > 0 for table in tables]
    mixed = shuffled_rows(tables, keep, seed=1)
    for subset in ("en", "multi"):
        rows = mixed.subset(subset)
        expected = [
            {name: value for name, value in row.items() if name != "subset"}
            for table in tables
            for row in table.to_pylist()
            if row["subset"] == subset and row["pack_row"] % 3
        ]
        assert rows.schema == tables[0].drop_columns(["subset"]).schema
        assert rows.to_pylist() != expected
        assert sorted(rows.to_pylist(), key=lambda row: (row["pack"], row["pack_row"])) == expected
        assert rows.equals(shuffled_rows(tables, keep, seed=1).subset(subset))
    assert len(mixed.subset("nolang")) == 0
