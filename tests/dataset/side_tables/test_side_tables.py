"""Side tables of a release, which `dataset publish` has written from parts in a real store."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset.errors import DatasetError
from dataset.formats.releases import FileKind, Release, open_release
from dataset.formats.side_tables import RECORD, SideTableError, read_side_tables
from dataset.main import app
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.release_embeddings.consolidate import Request, consolidate
from dataset.side_tables.copies import write_copy
from dataset.side_tables.join import join_similarity, join_tables
from dataset.side_tables.rows import ReleaseRows
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.side_tables.write import Written
from dataset.store.store import Store
from tests.checksums import check_sums
from tests.embeddings import put_embeddings, vector
from tests.parts import MadeStore, in_parts, make_pair


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A release of 300 rows in files of 70, with embeddings of its parts."""
    made = MadeStore(Store.open(str(tmp_path / "store")))
    pairs = [make_pair(seed, subset=("en", "multi")[seed % 2]) for seed in range(300)]
    put_embeddings(made.store, made.put_run("crawl", in_parts(pairs)))
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", "crawl")], rows_per_file=70))
    return open_release(made.store, "laion")


def data_rows(release: Release) -> list[dict[str, Any]]:
    files = release.files(FileKind.DATA)
    return [row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()]


def tags_of(release: Release, folder: Path, *, groups: int = 40, **columns: Any) -> Path:
    """Write a shuffled tag file of all rows, with other rows among them."""
    draw = np.random.default_rng(3)
    hashes = np.array([row["hash"] for row in data_rows(release)] + draw.integers(0, 2**60, 50).tolist())
    hashes = draw.permutation(hashes)
    table = pa.table({"hash": hashes, "nsfw": [tag_of(one) for one in hashes.tolist()], **columns})
    pq.write_table(table, folder / "tags.parquet", row_group_size=groups)
    return folder / "tags.parquet"


def tag_of(number: int) -> float:
    return (number % 1000) / 1000


def join(release: Release, path: Path, on: JoinOn = JoinOn.HASH, name: str = "tags", **how: Any) -> Written:
    columns = how.pop("columns", None)
    return join_tables(release, name, TableSource.open(str(path), on, columns), said=path.name, **how)


def read(release: Release, name: str) -> dict[int, dict[str, Any]]:
    """Read a side table by id, and check its files."""
    found: dict[int, dict[str, Any]] = {}
    for file in read_side_tables(release)[name].files:
        data = release.store.read(release.path(file.path))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        rows = release.store.read_table(release.path(file.path)).to_pylist()
        assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
        found |= {row["id"]: row for row in rows}
    return found


def test_each_row_gets_the_tags_of_its_hash(release: Release, tmp_path: Path) -> None:
    written = join(release, tags_of(release, tmp_path))
    rows = data_rows(release)
    assert read(release, "tags") == {row["id"]: {"id": row["id"], "nsfw": tag_of(row["hash"])} for row in rows}
    assert (written.table.rows, written.left_out) == (300, {"not_in_release": 50})
    assert not release.store.list("joining")


def test_the_bytes_depend_neither_on_memory_nor_on_threads(release: Release, tmp_path: Path) -> None:
    path = tags_of(release, tmp_path)
    files = [join(release, path, memory_bytes=memory, threads=threads).table.files
             for memory, threads in ((1 << 30, 1), (4, 1), (4, 3))]  # fmt: skip
    assert len({tuple(file.sha256 for file in some) for some in files}) == 1


def test_a_column_that_no_expression_could_name_is_refused(release: Release, tmp_path: Path) -> None:
    table = {"hash": [data_rows(release)[0]["hash"]], "nsfw": [0.5], "punsafe (v2)": [0.5]}
    pq.write_table(pa.table(table), tmp_path / "odd.parquet")
    with pytest.raises(SideTableError, match=r"'punsafe \(v2\)' .* cannot be named in an expression"):
        join(release, tmp_path / "odd.parquet")
    assert join(release, tmp_path / "odd.parquet", columns=["nsfw"]).table.rows == 1
    assert not (tmp_path / "store" / "joining").exists()


def test_a_table_that_is_joined_again_is_replaced_as_a_whole(release: Release, tmp_path: Path) -> None:
    path = tags_of(release, tmp_path)
    first = join(release, path).table
    second = join(release, path).table
    assert (first.generation, second.generation) == (1, 2)
    assert [file.sha256 for file in first.files] == [file.sha256 for file in second.files]
    assert {path.split("/")[3] for path in release.store.list(release.path("tags"))} == {"2-v1", "SHA256SUMS"}
    check_sums(Path(release.store.uri.removeprefix("file://")) / release.folder / "tags")


def test_of_rows_with_one_hash_the_first_counts_and_nan_becomes_null(release: Release, tmp_path: Path) -> None:
    first, second, *_ = data_rows(release)
    hashes = [second["hash"], first["hash"], second["hash"], None]
    table = pa.table({"hash": hashes, "nsfw": [0.1, float("nan"), 0.9, 0.5]})
    for groups, at in ((1, "a"), (10, "b")):
        pq.write_table(table, tmp_path / f"{at}.parquet", row_group_size=groups)
        written = join(release, tmp_path / f"{at}.parquet", memory_bytes=4)
        assert {one: row["nsfw"] for one, row in read(release, "tags").items()} == {
            second["id"]: 0.1,
            first["id"]: None,
        }
        assert written.left_out == {"not_in_release": 1, "repeated": 1}


def test_captions_are_imported_by_id_from_several_files(release: Release, tmp_path: Path) -> None:
    ids = [row["id"] for row in data_rows(release)]
    (tmp_path / "made").mkdir()
    for at in range(3):
        some = ids[at::3][::-1]
        table = pa.table({"caption": [f"a better caption of {one}" for one in some], "id": some})
        pq.write_table(table, tmp_path / "made" / f"{at}.parquet")
    store = release.store.uri
    command = ["captions", "import", "laion", str(tmp_path / "made"), "--store", store, "--json"]
    result = CliRunner().invoke(app, [*command, "--joined", str(tmp_path / "joined")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "table": "captions", "columns": {"caption": "string"}, "rows": 300, "left_out": {},
    }  # fmt: skip
    joined = pq.read_table(tmp_path / "joined").sort_by("id").to_pylist()
    assert [row["caption"] for row in joined] == [f"a better caption of {one}" for one in sorted(ids)]
    assert [row["TEXT"] for row in joined] == [row["TEXT"] for row in data_rows(release)]


def test_side_tables_are_columns_of_a_selection(release: Release, tmp_path: Path) -> None:
    join(release, tags_of(release, tmp_path))
    command = ["select", "laion", "--store", release.store.uri, "--where", "tags.nsfw < 0.25 AND WIDTH > 200"]
    result = CliRunner().invoke(app, [*command, "--count", "--json"])
    wanted = sum(tag_of(row["hash"]) < 0.25 and row["WIDTH"] > 200 for row in data_rows(release))
    assert json.loads(result.stdout)["rows"] == wanted > 0


def test_a_second_models_similarity_is_the_cosine_of_its_vectors(release: Release) -> None:
    consolidate(release, Request(model="ViT-L-14", batch=release.record.batches[0].name, rows_per_file=80))
    table = join_similarity(release, "ViT-L-14", threads=2).table
    assert table.name == "similarity_ViT_L_14"
    found = read(release, table.name)
    for file in release.files(FileKind.SOURCE):
        for row in release.store.read_table(release.path(file.path)).to_pylist():
            image, text = (vector(kind, row["key"]).astype(np.float32) for kind in ("image", "text"))
            assert found[row["id"]]["similarity"] == pytest.approx(float(image @ text), abs=1e-6)


def test_exported_tags_can_be_joined_again(release: Release, tmp_path: Path) -> None:
    out = tmp_path / "export"
    command = ["tags", "export", "laion", "--store", release.store.uri, "--out", str(out), "--columns", "punsafe"]
    assert CliRunner().invoke(app, command).exit_code == 0
    exported = {row["hash"]: row["punsafe"] for row in pq.read_table(out, columns=["hash", "punsafe"]).to_pylist()}
    assert exported == {row["hash"]: row["punsafe"] for row in data_rows(release)}
    assert join(release, out).table.rows == 300


def test_ids_of_removed_rows_are_left_out(release: Release, tmp_path: Path) -> None:
    file = next(release.files(FileKind.DATA))
    rows = release.store.read_table(release.path(file.path))
    release.store.write_table(release.path(file.path), rows.slice(2))
    record = json.loads(release.store.read(release.path("release.json")))
    record["files"][[one["path"] for one in record["files"]].index(file.path)]["rows"] -= 2
    release.store.put(release.path("release.json"), json.dumps(record).encode())
    path = tags_of(release, tmp_path)
    pq.write_table(
        pa.table({"hash": [*pq.read_table(path)["hash"].to_pylist(), *rows["hash"].to_pylist()[:2]],
                  "nsfw": [*pq.read_table(path)["nsfw"].to_pylist(), 0.5, 0.5]}), path)  # fmt: skip
    written = join(open_release(release.store, "laion"), path)
    assert (written.table.rows, written.left_out["not_in_release"]) == (298, 52)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"hash": [1], "nsfw": [0.5]}, "No row of bad.parquet is in laion"),
        ({"key": [1], "nsfw": [0.5]}, "has no column hash, only key, nsfw"),
        ({"hash": [1]}, "has no column to join"),
        ({"hash": [1], "nsfw": [{"a": 1}]}, "which a side table cannot have"),
        ({"hash": ["x"], "nsfw": [0.5]}, "cannot be joined"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused_in_a_sentence(
    release: Release, tmp_path: Path, table: dict[str, Any], said: str
) -> None:
    pq.write_table(pa.table(table), tmp_path / "bad.parquet")
    with pytest.raises(DatasetError, match=said):
        join(release, tmp_path / "bad.parquet")
    assert read_side_tables(release) == {}


def test_names_records_and_columns_that_cannot_be_used_are_told(release: Release, tmp_path: Path) -> None:
    path = tags_of(release, tmp_path)
    for name in ("data", "a/b", "similarity-x", ""):
        with pytest.raises(SideTableError, match="cannot name a side table"):
            join(release, path, name=name)
    (tmp_path / "text.parquet").write_text("no parquet", encoding="utf-8")
    with pytest.raises(DatasetError, match="cannot be read as parquet"):
        join(release, tmp_path / "text.parquet")
    with pytest.raises(SideTableError, match=r"no column nsfw, only URL"):
        write_copy(ReleaseRows.open(release), ["nsfw"], Store.open(str(tmp_path / "out")))
    release.store.put(release.path(RECORD), b"{")
    with pytest.raises(SideTableError, match="restore it from a copy"):
        join(release, path)
