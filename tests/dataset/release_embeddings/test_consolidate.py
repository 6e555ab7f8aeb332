"""Consolidating embeddings, from parts in a real store to the files of a release."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataset.errors import DatasetError
from dataset.formats.parts import pair_hash
from dataset.formats.release_embeddings import EmbeddingsRecord, find_embeddings
from dataset.formats.releases import FileKind, Release, open_release
from dataset.main import app
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.release_embeddings.consolidate import Request, consolidate
from dataset.release_embeddings.plan import in_units
from dataset.release_embeddings.sources import Source
from dataset.store.store import Store
from tests.checksums import check_sums
from tests.embeddings import MODEL, put_embeddings, vector
from tests.manifests import put_manifest
from tests.parts import MadeStore, in_parts, make_pair

BATCH = "2026-11-26"
OTHER = {"shoal.model": "mclip", "shoal.sha256": "c" * 64, "shoal.config_sha256": "d" * 64}


@pytest.fixture
def made(tmp_path: Path) -> MadeStore:
    return MadeStore(Store.open(str(tmp_path / "store")))


def released(made: MadeStore, *runs: str, batch: str = BATCH) -> Release:
    inputs = [InputName(".", run) for run in runs or ("crawl",)]
    publish(made.store, PublishRequest(name="laion", inputs=inputs, batch=batch, rows_per_file=70))
    return open_release(made.store, "laion")


def gather(release: Release, model: str = "ViT-L-14", **asked: Any) -> EmbeddingsRecord:
    how = {name: asked.pop(name) for name in ("memory_bytes", "threads", "restart") if name in asked}
    wanted: dict[str, Any] = {"model": model, "batch": BATCH, "rows_per_file": 60} | asked
    return consolidate(release, Request(**wanted), **how)


def read(release: Release, folder: str = "ViT-L-14", batch: str = BATCH) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Read all rows of pictures, of texts, and of metadata."""
    record = find_embeddings(release, folder, batch)
    assert record is not None
    images: list[Any] = []
    texts: list[Any] = []
    rows: list[dict[str, Any]] = []
    for file in record.files:
        path = release.path(f"embeddings/{folder}/{batch}/{file.path}")
        data = release.store.read(path)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        if file.path.startswith("metadata"):
            rows += release.store.read_table(path).to_pylist()
        elif file.path.endswith(".npy"):
            with release.store.open_input(path) as opened:
                (images if file.path.startswith("img") else texts).append(np.load(opened))
    return np.concatenate(images), np.concatenate(texts), rows


def local_path(release: Release) -> Path:
    return Path(release.store.uri.removeprefix("file://")) / release.folder


def sources(release: Release) -> dict[int, tuple[int, str, str, int]]:
    """The key, URL, caption and hash of each row of a release, by id."""
    found = {}
    data, source = list(release.files(FileKind.DATA)), list(release.files(FileKind.SOURCE))
    for left, right in zip(data, source, strict=True):
        rows = release.store.read_table(release.path(left.path)).to_pylist()
        for row, one in zip(rows, release.store.read_table(release.path(right.path)).to_pylist(), strict=True):
            found[row["id"]] = (one["key"], row["URL"], row["TEXT"], row["hash"])
    return found


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_each_row_of_a_release_has_the_vectors_of_the_sample_that_won_its_pair(made: MadeStore) -> None:
    first = made.put_run("crawl", in_parts([make_pair(seed, similarity=0.3) for seed in range(150)]))
    again = made.put_run("again", in_parts([make_pair(seed, similarity=0.4) for seed in range(100, 250)]))
    put_embeddings(made.store, first + again)
    release = released(made, "crawl", "again")
    record = gather(release)
    images, texts, rows = read(release)
    known = sources(release)
    assert {row["id"] for row in rows} == set(known)
    for image, text, row in zip(images, texts, rows, strict=True):
        key, *about = known[row["id"]]
        assert [row["url"], row["caption"], row["hash"]] == about
        assert np.array_equal(image, vector("image", key))
        assert np.array_equal(text, vector("text", key))
    assert (record.rows, record.source_rows, record.missing) == (250, 300, {"en": 0})
    assert record.left_out == {"other_sample": 50}
    assert record.model.sha256 == "a" * 64
    assert not made.store.list("consolidating")
    check_sums(local_path(release) / "embeddings" / "ViT-L-14" / BATCH)


def test_rows_without_an_embedding_are_counted_and_named(made: MadeStore) -> None:
    pairs = [make_pair(seed, subset=("en", "multi")[seed >= 100]) for seed in range(200)]
    parts = made.put_run("crawl", in_parts(pairs))
    put_embeddings(made.store, parts[:1])
    release = released(made)
    record = gather(release)
    _, _, rows = read(release)
    assert record.missing == {"en": 50, "multi": 100}
    named = made.store.read_table(release.path(f"embeddings/ViT-L-14/{BATCH}/missing.parquet"))["id"].to_pylist()
    english = {file.first_id + at for file in release.files(FileKind.DATA, subset="en") for at in range(file.rows)}
    assert named == sorted(english - {row["id"] for row in rows})


def test_a_model_gathers_its_own_rows_and_leaves_those_of_the_other_role(made: MadeStore) -> None:
    english = made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    other = made.put_run("more", in_parts([make_pair(seed, subset="multi") for seed in range(100, 200)]))
    put_embeddings(made.store, english)
    put_embeddings(made.store, other, model=OTHER, dimensions=8)
    release = released(made, "crawl", "more")
    assert gather(release).missing == {"en": 0, "multi": 100}
    record = gather(release, "mclip")
    assert (record.missing, record.dimensions) == ({"en": 100, "multi": 0}, 8)


def test_models_with_the_same_name_are_refused_until_a_checksum_chooses_one(made: MadeStore) -> None:
    parts = made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    put_embeddings(made.store, parts[:1])
    put_embeddings(made.store, parts[1:], model=MODEL | {"shoal.sha256": "e" * 64})
    release = released(made)
    with pytest.raises(DatasetError, match="2 models have the name"):
        gather(release)
    assert gather(release, "e" * 8, folder="second").rows == 50
    put_embeddings(made.store, made.put_run("late", [[make_pair(seed) for seed in range(500, 520)]]))
    release = released(made, "late", batch="2026-12-01")
    with pytest.raises(DatasetError, match="give this model another folder"):
        gather(release, "a" * 8, folder="second", batch="2026-12-01")


def test_the_bytes_depend_neither_on_the_units_nor_on_the_threads(made: MadeStore, tmp_path: Path) -> None:
    put_embeddings(made.store, made.put_run("crawl", in_parts([make_pair(seed) for seed in range(300)])))
    release = released(made)
    gather(release)
    whole = contents(tmp_path / "store" / "releases")
    gather(release, restart=True, memory_bytes=96 * 50 * 3, threads=3)
    assert contents(tmp_path / "store" / "releases") == whole


def test_a_sample_that_was_embedded_twice_counts_once(made: MadeStore) -> None:
    parts = made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    put_embeddings(made.store, parts)
    made.store.write_table("crawl/embed/1.parquet", made.store.read_table(parts[0]))
    put_embeddings(made.store, ["crawl/embed/1.parquet"])
    made.listed.append({"kind": "embeddings", "run": "crawl", "path": "crawl/embed/1", "rows": 50})
    made.put_run("other", [])
    release = released(made)
    record = gather(release)
    assert (record.rows, record.left_out["repeated"]) == (100, 50)


def test_a_million_sources_are_cut_into_units_in_one_pass() -> None:
    sources = (Source(".", "i", "t", "m", 1) for _ in range(1_000_000))
    assert [len(unit) for unit in in_units(sources, 400_000)] == [400_000, 400_000, 200_000]


def put_foreign(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> None:
    """Write a folder as clip-retrieval does, with float32 rows of any length."""
    store = Store.open(str(folder))
    for at, some in enumerate((rows[:80], rows[80:])):
        images = np.stack([vector("image", row["URL"]).astype(np.float32) * 3 for row in some])
        texts = np.stack([vector("text", row["URL"]).astype(np.float32) for row in some])
        if at == 0:
            for row in changes.get("nan", ()):
                images[row, 0] = np.nan
        table = pa.table({"url": [row["URL"] for row in some], "caption": [row["TEXT"] for row in some]})
        for name, array in (("img_emb", images), ("text_emb", texts)):
            with store.write(f"{name}/{name}_{at}.npy") as file:
                np.save(file, array)
        store.write_table(f"metadata/metadata_{at}.parquet", table.select(changes.get("columns", ["url", "caption"])))


def test_foreign_embeddings_are_found_by_url_and_caption(made: MadeStore, tmp_path: Path) -> None:
    pairs = [make_pair(seed) for seed in range(100)]
    made.put_run("crawl", in_parts(pairs))
    release = released(made)
    put_foreign(tmp_path / "theirs", [*pairs[10:], *[make_pair(seed) for seed in range(900, 930)]], nan=[4])
    record = gather(release, "siglip", foreign=str(tmp_path / "theirs"))
    images, _, rows = read(release, "siglip")
    assert (record.rows, record.missing) == (89, {"en": 11})
    assert record.left_out == {"not_in_release": 30, "without_direction": 1}
    for image, row in zip(images, rows, strict=True):
        assert row["hash"] == pair_hash(row["url"], row["caption"])
        assert np.allclose(image, vector("image", row["url"]), atol=1e-3)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("caption", "no columns url and caption"), ("text", "img_emb_N.npy, text_emb_N.npy and"), ("cut", "is cut off")],
)
def test_a_foreign_folder_that_cannot_be_used_is_refused_in_a_sentence(
    made: MadeStore, tmp_path: Path, fault: str, said: str
) -> None:
    pairs = [make_pair(seed) for seed in range(100)]
    made.put_run("crawl", in_parts(pairs))
    put_foreign(tmp_path / "theirs", pairs, columns=["url"] if fault == "caption" else ["url", "caption"])
    if fault == "text":
        (tmp_path / "theirs/text_emb/text_emb_1.npy").unlink()
    if fault == "cut":
        whole = (tmp_path / "theirs/img_emb/img_emb_1.npy").read_bytes()
        (tmp_path / "theirs/img_emb/img_emb_1.npy").write_bytes(whole[:-10])
    with pytest.raises(DatasetError, match=said):
        gather(released(made), "siglip", foreign=str(tmp_path / "theirs"))


def test_a_part_with_a_row_that_is_not_finite_is_named(made: MadeStore) -> None:
    parts = made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    put_embeddings(made.store, parts)
    path = parts[1].replace(".parquet", ".embeddings/img_emb/img_emb_0.npy")
    with made.store.open_input(path) as file:
        rows = np.load(file)
    rows[3, 2] = np.inf
    with made.store.write(path) as out:
        np.save(out, rows)
    with pytest.raises(DatasetError, match=r"Row 3 of .* is not finite"):
        gather(released(made))


def test_rows_of_two_widths_are_refused(made: MadeStore) -> None:
    parts = made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    put_embeddings(made.store, parts[:1])
    put_embeddings(made.store, parts[1:], dimensions=8)
    with pytest.raises(DatasetError, match="8 and 16 dimensions"):
        gather(released(made))


def test_the_command_gathers_each_batch_and_says_what_is_missing(made: MadeStore, tmp_path: Path) -> None:
    put_embeddings(made.store, made.put_run("crawl", in_parts([make_pair(seed) for seed in range(60)]))[:1])
    released(made)
    command = ["embeddings", "laion", "--model", "ViT-L-14", "--store", str(tmp_path / "store"), "--json"]
    for _ in range(2):  # the second call finds everything done
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        said = json.loads(result.stdout)
        assert (said["rows"], said["missing"], said["batch"]) == (50, {"en": 10}, BATCH)
    result = CliRunner().invoke(app, [*command, "--batch", "2020-01-01"])
    assert isinstance(result.exception, DatasetError)
    assert "has no batch 2020-01-01, only 2026-11-26" in str(result.exception)
    result = CliRunner().invoke(app, [*command[:2], "--model", "none", *command[4:]])
    assert "only of ViT-L-14 (aaaaaaaaaaaa)" in str(result.exception)


def test_a_release_without_embeddings_says_how_to_make_them(made: MadeStore) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(60)]))
    with pytest.raises(DatasetError, match="has no embeddings: make them with tracker embed and worker embed"):
        gather(released(made))


def test_a_batch_whose_parts_are_no_longer_listed_is_refused_and_nothing_is_left(
    made: MadeStore, tmp_path: Path
) -> None:
    put_embeddings(made.store, made.put_run("crawl", in_parts([make_pair(seed) for seed in range(60)])))
    release = released(made)
    made.listed = [listed | {"rows": 0} for listed in made.listed]
    put_manifest(made.store, made.listed)
    with pytest.raises(DatasetError, match="The manifests list no part with rows"):
        gather(release)
    assert not (tmp_path / "store" / "consolidating").exists()
