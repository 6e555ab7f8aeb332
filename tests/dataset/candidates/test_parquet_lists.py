"""Parquet link lists: memory is bounded by the size of the decoded values, however small the file is."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.candidates import parquet_lists
from dataset.candidates.parquet_lists import read_batches

# Reads a list as an ingest worker does, and prints its candidates and by how many MiB the process has grown at most.
INGEST = """
import io, resource, sys
from contextlib import contextmanager
from dataset.candidates.link_list_rows import ListPiece
from dataset.candidates.link_lists import read_list

class Nowhere(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        return len(data)

@contextmanager
def write(pack, slot):
    yield Nowhere()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

before = peak()
piece = ListPiece("parquet", "URL", "TEXT", None, {name: "string" for name in sys.argv[2:]})
with open(sys.argv[1], "rb") as file:
    report = read_list(file, piece, slots=2, write=write, on_progress=lambda rows: None, metadata={})
print(report.candidates, report.dropped.total(), peak() - before)
"""

ROWS = 20_000
HELD_MIB = 350
"""Of 64 MiB of values: as read, as decoded, as mended, as taken by slot and as encoded by the pack's writer."""


def repeated(length: int, rows: int = ROWS) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * length]))


def urls(rows: int = ROWS) -> pa.Array:
    return pa.array([f"http://a.example/{i}.jpg" for i in range(rows)])


def ingested(path: Path, columns: Mapping[str, pa.Array], *extra: str, keep_types: bool = False) -> list[int]:
    """Write a list and read it in a process of its own -> candidates, dropped, MiB."""
    pq.write_table(pa.table(columns), path, store_schema=keep_types)
    command = [sys.executable, "-c", INGEST, str(path), *extra]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(number) for number in said.split()]


@pytest.mark.parametrize("keep_types", [False, True])
def test_a_long_caption_that_a_small_file_repeats_is_held_a_few_times_only(tmp_path: Path, keep_types: bool) -> None:
    path = tmp_path / "list.parquet"
    candidates, _, mib = ingested(path, {"URL": urls(), "TEXT": repeated(30_000)}, keep_types=keep_types)
    assert candidates * 30_000 > 500 << 20
    assert path.stat().st_size < 200_000
    assert mib < HELD_MIB


def test_so_is_a_long_text_in_lists_of_another_column(tmp_path: Path) -> None:
    rows = 5_000
    texts = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * 2), repeated(40_000, 2 * rows))
    columns = {"URL": urls(rows), "TEXT": urls(rows), "texts": texts}
    candidates, dropped, mib = ingested(tmp_path / "list.parquet", columns, "texts")
    assert (candidates, dropped) == (0, rows)  # its extra columns are too long for the pool
    assert mib < HELD_MIB + 200  # as Python's values, as JSON


TEXTS = ["a", "bcd", "a", None, "", "é" * 40, "a", "bcd"]
COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(TEXTS),
    "large": pa.array(TEXTS, pa.large_string()),
    "bytes": pa.array(TEXTS).cast(pa.binary()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "list": pa.array([[text, "a"] if text else None for text in TEXTS]),
    "nested": pa.array([[[text], []] for text in TEXTS], pa.large_list(pa.list_(pa.string()))),
    "pair": pa.array([[text, "a"] if text else None for text in TEXTS], pa.list_(pa.string(), 2)),
    "struct": pa.array([{"a": text, "b": 1} if text else None for text in TEXTS]),
    "map": pa.array([[("k", text)] if text else None for text in TEXTS], pa.map_(pa.string(), pa.string())),
    "fixed": pa.array([b"abc"] * 8, pa.binary(3)),
    "number": pa.array(range(8)),
    "price": pa.array([1, 2] * 4, pa.decimal128(5, 2)),
    "none": pa.nulls(8),
}


@pytest.mark.parametrize("rows_held", [3, 100])
@pytest.mark.parametrize("bytes_held", [1, 50, 10_000])
@pytest.mark.parametrize("by_dictionary", [0, 1 << 30])
def test_every_type_is_read_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_held: int, bytes_held: int, by_dictionary: int
) -> None:
    for name, value in (("ROWS_HELD", rows_held), ("BYTES_HELD", bytes_held), ("DICTIONARY_BYTES", by_dictionary)):
        monkeypatch.setattr(parquet_lists, name, value)
    table = pa.table(COLUMNS)
    path = tmp_path / "list.parquet"
    pq.write_table(table, path, row_group_size=4)
    columns = [*reversed(COLUMNS)]
    batches = read(path, [0, 1], columns)
    assert pa.Table.from_batches(batches).to_pylist() == table.select(columns).to_pylist()
    assert max(map(len, batches)) <= rows_held
    assert pa.Table.from_batches(read(path, [1], ["pair"])).to_pylist() == table.select(["pair"])[4:].to_pylist()


def test_views_are_read_as_what_they_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_lists, "DICTIONARY_BYTES", 0)
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"text": pa.array(TEXTS, pa.string_view())}), path)
    assert [value for batch in read(path, [0], ["text"]) for value in batch["text"].to_pylist()] == TEXTS


def test_a_batch_ends_where_its_values_reach_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_lists, "BYTES_HELD", 1_000)
    path = tmp_path / "list.parquet"
    texts = pa.array(["x" * 400, "y" * 300] * 4 + ["z" * 5_000] + ["x" * 400])
    pq.write_table(pa.table({"text": texts.dictionary_encode()}), path, store_schema=False)
    sizes = [sum(len(text) for text in batch["text"].to_pylist()) for batch in read(path, [0], ["text"])]
    assert max(size for size in sizes if size != 5_000) <= 1_000
    assert sum(sizes) == 4 * 700 + 5_400


def read(path: Path, groups: Sequence[int], columns: Sequence[str]) -> list[pa.RecordBatch]:
    with path.open("rb") as source:
        return list(read_batches(pq.ParquetFile(source), source, groups, columns))
