"""Gathering reads any table of pairs, uses saved counts, and reports in one sentence what it cannot read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.errors import DatasetError
from dataset.stats import frequent
from dataset.stats import gather as gathering
from dataset.stats import units as unit_module
from dataset.stats.counts import Counts
from dataset.stats.figures import all_figures
from dataset.stats.gather import count_unit, gather
from dataset.stats.saved import counts_to_bytes
from dataset.stats.tables import markdown
from dataset.stats.units import Piece, Unit, subset_of, units_of_folder, units_of_parts
from dataset.store.store import Store
from tests.laion_rows import laion_rows


def write(folder: Path, name: str, table: pa.Table, **options: Any) -> Store:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name, **options)
    return Store.open(str(folder), writable=False)


def figures(store: Store) -> dict[str, Any]:
    return all_figures(gather(store, units_of_folder(store)))


def retyped(table: pa.Table, **types: pa.DataType) -> pa.Table:
    for name, kind in types.items():
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    return table


@pytest.mark.parametrize(
    "types",
    [
        {"WIDTH": pa.int64(), "HEIGHT": pa.int16()},
        {"WIDTH": pa.float64(), "HEIGHT": pa.float32()},
        {"URL": pa.large_string(), "TEXT": pa.dictionary(pa.int32(), pa.string())},
        {"TEXT": pa.string_view()},
        {"pwatermark": pa.float64(), "punsafe": pa.float64(), "aesthetic": pa.float64()},
    ],
    ids=str,
)
def test_the_types_of_columns_do_not_change_the_figures(types: dict[str, pa.DataType], tmp_path: Path) -> None:
    table = laion_rows(2_000)
    clipped = table.set_column(3, "HEIGHT", pa.array(table["HEIGHT"].to_numpy() % 5_000))
    rounded = clipped.set_column(9, "aesthetic", pa.array((table["aesthetic"].to_numpy() * 8).round() / 8))
    plain = figures(write(tmp_path / "plain", "a.parquet", rounded))
    other = figures(write(tmp_path / "other", "a.parquet", retyped(rounded, **types)))
    known = {"watermark"} if "pwatermark" in types else set()  # a float32 of 0.8 is more than 0.8 as a double
    assert {name: each for name, each in plain["all"].items() if name not in known} == {
        name: each for name, each in other["all"].items() if name not in known
    }


def test_missing_columns_are_left_out(tmp_path: Path) -> None:
    found = figures(write(tmp_path, "a.parquet", pa.table({"url": ["http://a/"], "text": ["b"]})))["all"]
    assert found["columns"].keys() == {"URL", "TEXT"}
    assert found["width"]["quantiles"]["0.50"] is None
    assert found["unsafe"] == {"above": 0.5, "known": 0, "rows": 0, "share": None}


def test_texts_that_are_no_utf8_are_counted_and_shown_replaced(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9", b"caf\xe9", b"http://\xff.example/"])
    strings = pa.StringArray.from_buffers(3, *bad.buffers()[1:])
    table = pa.table({"URL": strings, "TEXT": strings, "LANGUAGE": strings})
    found = figures(write(tmp_path, "a.parquet", table))["all"]
    assert found["captions"]["values"][0] == {"value": "caf\ufffd", "rows": 2}
    assert found["languages"][0]["language"] == "caf\ufffd"


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    found = figures(write(tmp_path, "a.parquet", laion_rows(10).slice(0, 0)))
    assert found["rows"] == 0
    assert found["all"]["distinct"]["URL"] == 0


def test_a_column_of_nulls_alone_is_counted(tmp_path: Path) -> None:
    table = pa.table({"URL": ["http://a/"], "WIDTH": pa.nulls(1), "punsafe": pa.nulls(1), "TEXT": pa.nulls(1)})
    found = figures(write(tmp_path, "a.parquet", table))["all"]
    assert {name: each["null"] for name, each in found["columns"].items()} == {
        "URL": 0, "TEXT": 1, "WIDTH": 1, "punsafe": 1}  # fmt: skip


@pytest.mark.parametrize("folder", ["data/en/2026-01-01", "laion2B-en", "laion/en"])
def test_a_folder_names_the_subset(folder: str) -> None:
    assert subset_of(f"{folder}/train-00000-of-00001.parquet") == "en"


def test_subsets_are_counted_apart_and_together(tmp_path: Path) -> None:
    for name in ("laion2B-en", "laion1B-nolang"):
        store = write(tmp_path, f"{name}/a.parquet", laion_rows(100, len(name)))
    found = figures(store)
    assert {name: each["rows"] for name, each in found["subsets"].items()} == {"en": 100, "nolang": 100}
    assert found["rows"] == found["all"]["rows"] == 200


def one_sentence(store: Store) -> str:
    with pytest.raises(DatasetError) as caught:
        gather(store, units_of_folder(store))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"<html>no</html>" * 50])
def test_a_file_that_is_not_parquet_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    assert "a.parquet" in one_sentence(Store.open(str(tmp_path), writable=False))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = write(tmp_path, "a.parquet", laion_rows(20_000), write_page_checksum=True)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[5_000:9_000] = bytes(4_000)
    (tmp_path / "a.parquet").write_bytes(data)
    assert "a.parquet" in one_sentence(store)


def test_a_table_of_something_else_is_named(tmp_path: Path) -> None:
    said = one_sentence(write(tmp_path, "a.parquet", pa.table({"x": [1]})))
    assert said.startswith("a.parquet has none of the columns URL, TEXT")


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    said = one_sentence(write(tmp_path, "a.parquet", pa.table({"WIDTH": ["wide"]})))
    assert "WIDTH has the type string, not a number" in said


def test_a_column_of_languages_that_holds_something_else_is_named(tmp_path: Path) -> None:
    said = one_sentence(write(tmp_path, "a.parquet", pa.table({"LANGUAGE": [f"text {n}" for n in range(6_000)]})))
    assert "LANGUAGE has more than 5,000 values" in said


def test_a_folder_without_tables_is_one_sentence(tmp_path: Path) -> None:
    assert "has no parquet file" in one_sentence(Store.open(str(tmp_path)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with pytest.raises(DatasetError, match=r"parts/1\.parquet is missing"):
        gather(store, units_of_parts([("en", "parts/1.parquet", 10)]))


def test_small_parts_of_a_subset_share_a_unit() -> None:
    parts = [("en", f"{number}", 600_000) for number in range(3)] + [("multi", "m", 5)]
    assert [(unit.subset, len(unit.pieces)) for unit in units_of_parts(parts)] == [("en", 2), ("en", 1), ("multi", 1)]


def test_a_large_file_is_split_by_its_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_module, "UNIT_BYTES", 1_000)
    monkeypatch.setattr(unit_module, "UNIT_ROWS", 250)
    table = laion_rows(1_000)
    store = write(tmp_path, "a.parquet", table, row_group_size=100)
    units = list(units_of_folder(store))
    assert [unit.pieces[0].groups for unit in units] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert gather(store, units).counts["all"].rows == 1_000


def test_captions_that_a_unit_dropped_are_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequent, "KEPT", 3)
    rare = [f"only here {number}" for number in range(30)]
    for name, texts in {
        "a": ["often"] * 5 + ["twice"] * 2 + rare,
        "b": ["twice", "often", "x", "x", "y", "y", "z", "z"],
    }.items():
        urls = [f"https://host{number}.example/" for number in range(len(texts))]
        store = write(tmp_path, f"{name}.parquet", pa.table({"TEXT": texts, "URL": urls}))
    units = [Unit("", (Piece(f"{name}.parquet"),)) for name in "ab"]
    listed = gather(store, units).listed["all"]["TEXT"]
    assert listed.values[:2] == (("often", 6), ("twice", 3))
    assert listed.others_at_most >= 2


class Saving:
    """A store with one unit whose counts are saved, and a count of what was counted anew."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pq.write_table(laion_rows(500), folder / "a.parquet")
        self.store = Store.open(str(folder))
        self.counted = 0

        def counting(store: Store, unit: Unit) -> Counts:
            self.counted += 1
            return count_unit(store, unit)

        monkeypatch.setattr(gathering, "count_unit", counting)

    def gather(self, sha256: str = "0" * 64, save: bool = True) -> Counts:
        unit = Unit("multi", (Piece("a.parquet"),), "stats/a.counts", sha256)
        return gather(self.store, [unit], save=save).counts["multi"]


def test_saved_counts_are_used_and_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = Saving(tmp_path, monkeypatch)
    first = saving.gather()
    assert saving.gather() == first
    assert saving.counted == 1


def test_a_file_that_changed_is_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = Saving(tmp_path, monkeypatch)
    saving.gather()
    saving.gather("1" * 64)
    assert saving.counted == 2


def test_damaged_saved_counts_are_counted_again_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = Saving(tmp_path, monkeypatch)
    whole = saving.gather()
    saving.store.put("stats/a.counts", b"damaged")
    assert saving.gather() == whole
    assert saving.store.read("stats/a.counts") == counts_to_bytes(whole, "0" * 64)


def test_nothing_is_written_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = Saving(tmp_path, monkeypatch)
    saving.gather(save=False)
    assert saving.store.list() == ["a.parquet"]


def test_a_store_that_cannot_be_written_is_one_sentence_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = Saving(tmp_path, monkeypatch)
    (tmp_path / "stats").write_text("a file where the folder must be", encoding="utf-8")
    with pytest.raises(DatasetError, match="--no-save"):
        saving.gather()
    assert saving.gather(save=False).rows == 500


def test_a_caption_that_is_rare_in_every_batch_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequent, "KEPT", 3)
    monkeypatch.setattr(unit_module, "BATCH_ROWS", 10)
    texts = [f"unique {number}" if number % 10 else "once in each batch" for number in range(50)]
    store = write(tmp_path, "a.parquet", pa.table({"TEXT": texts}))
    listed = gather(store, units_of_folder(store)).listed["all"]["TEXT"]
    assert listed.values[0] == ("once in each batch", 5)


def test_small_files_are_counted_together_and_equal_one_large_file(tmp_path: Path) -> None:
    table = laion_rows(3_000)
    whole = write(tmp_path / "whole", "a.parquet", table)
    for number in range(30):
        parts = write(tmp_path / "parts", f"{number:02d}.parquet", table.slice(number * 100, 100))
    units = list(units_of_folder(parts))
    assert len(units) == 1
    assert len(list(unit_module.read_unit(parts, units[0]))) == 1
    assert gather(parts, units).counts["all"] == gather(whole, units_of_folder(whole)).counts["all"]


def test_small_files_with_other_types_are_counted_apart(tmp_path: Path) -> None:
    table = laion_rows(200)
    write(tmp_path, "a.parquet", table)
    write(tmp_path, "b.parquet", retyped(table, URL=pa.large_string()))
    store = write(tmp_path, "c.parquet", table.slice(0, 0))
    assert gather(store, units_of_folder(store)).counts["all"].rows == 400


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**53 + 1])
def test_integers_beyond_the_exact_doubles_are_counted_at_the_ends(number: int, tmp_path: Path) -> None:
    table = pa.table({"URL": ["http://a.example/1"], "similarity": pa.array([number], pa.int64())})
    assert figures(write(tmp_path, "x.parquet", table))["all"]["similarity"]["mean"] == (1 if number > 0 else -1)


def test_two_columns_of_one_name_are_said(tmp_path: Path) -> None:
    table = pa.table([pa.array(["http://a.example/1"])] * 2, names=["URL", "URL"])
    with pytest.raises(DatasetError, match=r"x\.parquet.*two columns URL"):
        figures(write(tmp_path, "x.parquet", table))


def test_a_language_that_is_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    languages = ["<img src=x onerror=alert(1)>|a\n# title"]
    table = pa.table({"URL": ["http://a.example/1"], "LANGUAGE": languages})
    shown = markdown(figures(write(tmp_path, "x.parquet", table)))
    assert r"| \<img src=x onerror=alert(1)\>\|a \# title |" in shown
