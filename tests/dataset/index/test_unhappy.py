"""Input that no index can be built of or searched with, and files that are not what they were: one sentence each."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.errors import DatasetError
from dataset.formats.parts import pair_hash
from dataset.formats.release_embeddings import EmbeddingModel
from dataset.index.filters import parse_filter
from dataset.index.lookup import open_index
from dataset.index.plan import IndexOptions, check_model
from dataset.store.store import Store
from tests.dataset.index.made import build_folder, build_index, made_release, put_vectors


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    put_vectors(folder, [40, 30])
    return build_folder(folder)[0]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    rows = np.load(path)
    change(rows)
    np.save(path, rows)


def nan(rows: Any) -> None:
    rows[5, 2] = np.nan


def zero(rows: Any) -> None:
    rows[7] = 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda folder: edit(folder / "vectors_1.npy", nan), r"Row 5 of vectors_1.npy is zero or not finite"),
        (lambda folder: edit(folder / "vectors_0.npy", zero), r"Row 7 of vectors_0.npy is zero or not finite"),
        (lambda folder: np.save(folder / "vectors_1.npy", np.ones((30, 8), np.float32)), "8 dimensions and .* 16"),
        (lambda folder: np.save(folder / "vectors_1.npy", np.ones((29, 16), np.float32)), "30 rows and .* 29"),
        (lambda folder: np.save(folder / "vectors_1.npy", np.ones((30, 16), np.int64)), "array of floats is needed"),
        (
            lambda folder: (folder / "vectors_1.npy").write_bytes((folder / "vectors_1.npy").read_bytes()[:-9]),
            "vectors_1.npy is cut off",
        ),
        (lambda folder: (folder / "vectors_1.npy").write_bytes(b"nothing"), "is not a numpy array"),
        (lambda folder: (folder / "vectors_1.parquet").unlink(), "2 .npy files of pictures and 1 parquet"),
        (lambda folder: (folder / "vectors_1.parquet").write_bytes(b"PAR1"), "cannot be read as parquet"),
        (
            lambda folder: pq.write_table(pa.table({"url": ["a"] * 30}), folder / "vectors_1.parquet"),
            "all files need the columns of the first",
        ),
        (lambda folder: [path.unlink() for path in folder.glob("*.npy")], "neither a release.json nor .npy files"),
    ],
)  # fmt: skip
def test_vectors_that_cannot_be_indexed_are_refused(tmp_path: Path, fault: Callable[[Path], None], said: str) -> None:
    put_vectors(tmp_path, [40, 30])
    fault(tmp_path)
    with pytest.raises(DatasetError, match=said):
        build_folder(tmp_path)


def test_rows_whose_columns_were_mixed_are_found_by_their_hash(tmp_path: Path) -> None:
    put_vectors(tmp_path, [20], tables=False)
    rows = [(f"https://a.example/{at}", f"caption {at}") for at in range(20)]
    hashes = [pair_hash(url, text) for url, text in rows]
    columns = {"url": [url for url, _ in rows], "caption": [text for _, text in reversed(rows)], "hash": hashes}
    pq.write_table(pa.table(columns), tmp_path / "vectors_0.parquet")
    with pytest.raises(DatasetError, match=r"Row 0 of vectors_0.parquet has the hash .* were mixed"):
        build_folder(tmp_path)


def test_vectors_of_a_release_that_belong_to_other_rows_are_found_by_their_hash(tmp_path: Path) -> None:
    release = made_release(tmp_path, 120)
    (path,) = (tmp_path / "releases/laion/embeddings").rglob("metadata_00000.parquet")
    table = pq.read_table(path)
    shifted = pa.concat_tables([table.slice(1), table.slice(0, 1)])["hash"]
    pq.write_table(table.set_column(table.schema.get_field_index("hash"), "hash", shifted), path)
    with pytest.raises(DatasetError, match="was made of another pair"):
        build_index(release)


def test_a_query_of_another_model_or_without_a_direction_is_refused(built: Path) -> None:
    index = open_index(built)
    with pytest.raises(DatasetError, match="8 dimensions and the index 16"):
        index.search(np.ones((1, 8), np.float32), 3)
    for query in (np.zeros((1, 16), np.float32), np.full((1, 16), np.nan, np.float32)):
        with pytest.raises(DatasetError, match="no direction"):
            index.search(query, 3)
    record = index.record
    with pytest.raises(DatasetError, match="have 8 dimensions"):
        check_model(record, record.model, 8)
    release = EmbeddingModel("ViT", "a" * 64, "b" * 64)
    other = EmbeddingModel("ViT", "c" * 64, "b" * 64)
    with pytest.raises(DatasetError, match="different models cannot be compared"):
        check_model(replace(record, model=release), other, 16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sfae", "has no facet sfae: it has .*safe"),
        ("min-side=300", "has no facet min-side=300"),
        ("lang=", "is not a condition"),
        ("host=a.com,host=b.com", "name hosts only once"),
        ("safe=1", "has no facet safe=1"),
    ],
)
def test_a_filter_that_no_row_can_meet_by_mistake_is_refused(built: Path, text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        open_index(built).search(np.ones((1, 16), np.float32), 3, where=parse_filter(text))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda folder: next(folder.rglob("*.ivf")).unlink(), "lists-00000.ivf is missing"),
        (lambda folder: (folder / "1-1-rows/ids-00000.i64").write_bytes(b"x"), "bytes, not"),
        (lambda folder: (folder / "index.json").write_text('{"format": 0}'), "has the format 0, not 2"),
        (lambda folder: (folder / "index.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "index.json").unlink(), "no index"),
        (
            lambda folder: (folder / "1/trained.faiss").write_bytes(bytes((folder / "1/trained.faiss").stat().st_size)),
            "trained.faiss cannot be read",
        ),
    ],
)  # fmt: skip
def test_an_index_with_a_damaged_file_is_refused(
    tmp_path: Path, built: Path, fault: Callable[[Path], None], said: str
) -> None:
    shutil.copytree(built, tmp_path / "index")
    fault(tmp_path / "index")
    with pytest.raises(DatasetError, match=said):
        open_index(tmp_path / "index")


def test_damaged_texts_are_named(tmp_path: Path, built: Path) -> None:
    shutil.copytree(built, tmp_path / "index")
    path = next((tmp_path / "index").rglob("texts-*.zst"))
    data = bytearray(path.read_bytes())
    data[40] ^= 255
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"texts-00000.zst is damaged at byte 0"):
        open_index(tmp_path / "index").rows([3])


def test_a_full_disk_ends_a_build_with_a_sentence_and_the_next_call_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_vectors(tmp_path, [40])
    publish = Store._publish

    def full(self: Store, aside: Path, place: str, **how: bool) -> None:
        if place.endswith(".ivf"):
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(self, aside, place, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_publish", full)
        with pytest.raises(DatasetError, match="No space left on device"):
            build_folder(tmp_path)
    folder, record = build_folder(tmp_path)
    assert record.rows == 40
    assert not list(folder.rglob("*.partial"))


def test_an_unfinished_build_is_continued_only_with_its_own_options(tmp_path: Path) -> None:
    put_vectors(tmp_path, [40])
    store = Store.open(str(tmp_path))
    build_folder(tmp_path)
    store.delete("index/indexing/image/finish/000000.json")
    with pytest.raises(DatasetError, match="is of a build with other options"):
        build_folder(tmp_path, seed=3)
    with pytest.raises(DatasetError, match="not a kind of index"):
        IndexOptions(model="", kind="hnsw")
    put_vectors(tmp_path / "few", [4])
    with pytest.raises(DatasetError, match="cannot be divided into"):
        build_folder(
            tmp_path / "more" if put_vectors(tmp_path / "more", [4]) is not None else tmp_path, kind="sq16", lists=64
        )


def test_a_release_without_embeddings_says_what_to_run(tmp_path: Path) -> None:
    release = made_release(tmp_path, 60)
    with pytest.raises(DatasetError, match=r"has no embeddings of siglip .* run `dataset embeddings laion"):
        build_index(release, model="siglip")
