"""`dataset tag` on a published release, compared with the heads on the embeddings and pictures of its crawl."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset.formats.releases import FileKind, Release, open_release
from dataset.formats.side_tables import SideTable, read_side_tables
from dataset.main import app
from dataset.models.inputs import Square
from dataset.recipe.tags import Tag
from dataset.side_tables.join import join_tables
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.store.store import Store
from dataset.tagging import jobs
from dataset.tagging.errors import TaggingError
from dataset.tagging.given_heads import find_heads
from dataset.tagging.jobs import run_unit_of
from dataset.tagging.options import Options
from dataset.tagging.run import tag
from dataset.tagging.work import Work
from dataset.tags.heads import HeadError, add_head, read_head_file
from dataset.tags.picture_heads import load_picture_head
from tests.checksums import check_sums
from tests.dataset.tagging.made import BROKEN_EVERY, MODEL, linear_head, made_release, picture_head, picture_of
from tests.embeddings import vector


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagged") / "store"
    made_release(folder)
    return folder


@pytest.fixture
def release(template: Path, tmp_path: Path) -> Release:
    shutil.copytree(template, tmp_path / "store")
    return open_release(Store.open(str(tmp_path / "store")), "laion")


def tags_of(release: Release, table: SideTable | None = None) -> dict[int, dict[str, Any]]:
    """Read the table by id."""
    files = (table or read_side_tables(release)["tags"]).files
    return {row["id"]: row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()}


def rows_of(release: Release) -> Iterator[dict[str, Any]]:
    """Yield id, hash, key and input of the release's rows."""
    for data in release.files(FileKind.DATA):
        rows = release.store.read_table(release.path(data.path))
        source = next(one for one in release.files(FileKind.SOURCE) if one.first_id == data.first_id)
        keys = release.store.read_table(release.path(source.path))["key"]
        yield from rows.append_column("key", keys).to_pylist()


def run(release: Release, *arguments: object) -> Any:
    return CliRunner().invoke(app, ["tag", "laion", "--store", release.store.uri, *map(str, arguments)])


def test_what_cannot_be_tagged_is_told_in_a_sentence(release: Release, tmp_path: Path) -> None:
    store = release.store
    other = tmp_path / "other.safetensors"
    other.write_bytes(linear_head(sha256="c" * 64).to_bytes())
    wide = tmp_path / "wide.safetensors"
    wide.write_bytes(linear_head(sha256=None, dimensions=8).to_bytes())
    with pytest.raises(HeadError, match=r"has no head heads/nobody.safetensors: put it there with `dataset heads add`"):
        find_heads(store, ["nobody"])
    with pytest.raises(TaggingError, match="both compute punsafe: give one head for each tag"):
        find_heads(store, ["unsafe", str(other)])
    with pytest.raises(TaggingError, match=r"made on other weights \(c{12}…\) than embeddings/ViT-L-14 \(a{12}…"):
        tag(release, find_heads(store, [str(other)]))
    with pytest.raises(TaggingError, match="reads 8 dimensions of ViT-L-14, and embeddings/ViT-L-14 have 16"):
        tag(release, find_heads(store, [str(wide)]), model=MODEL)
    with pytest.raises(TaggingError, match="has no embeddings of other: write them with dataset embeddings first"):
        tag(release, find_heads(store, ["unsafe"]), model="other")
    with pytest.raises(TaggingError, match="No head reads embeddings: leave --model out"):
        tag(release, find_heads(store, ["mark"]), model=MODEL)
    assert not read_side_tables(release)
    assert not store.list("tagging")


def test_each_row_gets_the_score_of_its_embedding(release: Release) -> None:
    said = run(release, "--head", "unsafe", "--json")
    assert said.exit_code == 0, said.output
    head = linear_head()
    found = tags_of(release)
    for row in rows_of(release):
        wanted = head.score(vector("image", row["key"])[None].astype(np.float32))[0]
        assert found[row["id"]] == {"id": row["id"], "hash": row["hash"], "punsafe": pytest.approx(wanted, abs=1e-6)}
    table = read_side_tables(release)["tags"]
    card = table.heads["punsafe"].card
    assert re.fullmatch("tags/punsafe-[0-9a-f]{12}.md", card)
    assert json.loads(said.stdout)["heads"]["punsafe"] | {"card_sha256": ""} == {
        "head": "store:heads/unsafe.safetensors",
        "sha256": find_heads(release.store, ["unsafe"])["punsafe"].file.sha256,
        "kind": "embedding",
        "reads": MODEL,
        "rows": 200,
        "left_out": {},
        "card": card,
        "card_sha256": "",
    }
    folder = Path(release.store.uri.removeprefix("file://")) / release.folder
    assert (folder / card).read_text(encoding="utf-8") == "# unsafe\n\nA card.\n"
    check_sums(folder / "tags")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert not release.store.list("tagging")


def test_kept_pictures_are_scored_and_the_others_are_counted(release: Release, tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"  # as `dataset train-classifier` writes it, with its card
    path.write_bytes(picture_head())
    path.with_name("README.md").write_bytes(b"# A classifier\n")
    table = tag(release, find_heads(release.store, [str(path)]), unit_pictures=40)
    rows = list(rows_of(release))
    kept = [row for row in rows if row["key"] // 100_000 <= 3]  # the shards of three parts
    good = [row for row in kept if row["key"] % BROKEN_EVERY]
    found = tags_of(release)
    assert found.keys() == {row["id"] for row in good}
    head = load_picture_head(read_head_file(path), "cpu")
    for row in good[:6]:
        picture = Image.open(io.BytesIO(picture_of(str(row["key"])))).convert("RGB")
        square = np.frombuffer(Square(head.side)(picture), np.uint8).reshape(1, head.side, head.side, 3)
        assert found[row["id"]]["pwatermark"] == pytest.approx(head.score(square)[0], abs=1e-5)
    assert len({row["pwatermark"] for row in found.values()}) > 50
    assert table.heads["pwatermark"].left_out == {
        "picture not kept": len(rows) - len(kept),
        "picture undecodable": len(kept) - len(good),
    }
    assert table.heads["pwatermark"].head == "classifier.safetensors"
    assert release.store.read(release.path(table.heads["pwatermark"].card)) == b"# A classifier\n"


def test_other_columns_of_the_table_stay(release: Release, tmp_path: Path) -> None:
    rows = list(rows_of(release))
    published = pa.table({"hash": [row["hash"] for row in rows[:90]], "punsafe": [0.5] * 90, "nsfw": [0.25] * 90})
    pq.write_table(published, tmp_path / "laion.parquet")
    source = TableSource.open(str(tmp_path / "laion.parquet"), JoinOn.HASH, None)
    join_tables(release, "tags", source, said="laion.parquet")
    tag(release, find_heads(release.store, ["unsafe"]))
    table = tag(release, find_heads(release.store, ["mark"]))
    assert (table.generation, list(table.columns)) == (3, ["hash", "nsfw", "punsafe", "pwatermark"])
    found = tags_of(release)
    assert sum(row["nsfw"] == 0.25 for row in found.values()) == 90
    assert sum(row["punsafe"] is not None for row in found.values()) == 200
    assert table.heads["punsafe"].head == "store:heads/unsafe.safetensors"
    card = release.store.read(release.path(table.heads["pwatermark"].card)).decode()
    assert "came without a model card" in card
    folder = Path(release.store.uri.removeprefix("file://")) / release.folder
    assert [path.name for path in (folder / "tags").iterdir() if path.is_dir()] == ["3-v1"]
    assert len(list((folder / "tags").glob("*.md"))) == 2
    check_sums(folder / "tags")


def test_the_bytes_depend_neither_on_threads_nor_on_units_nor_on_repeated_ones(
    release: Release, tmp_path: Path
) -> None:
    first = tag(release, find_heads(release.store, ["unsafe", "mark"]))
    heads = find_heads(release.store, ["unsafe", "mark"])
    assert tag(release, heads) == first
    second = tag(release, heads, restart=True, threads=3, unit_rows=64, unit_pictures=90)
    assert [file.sha256 for file in second.files] == [file.sha256 for file in first.files]
    assert second.generation == 2

    def twice(work: Work, step: str, unit: int) -> Any:
        run_unit_of(work, step, unit)
        return run_unit_of(Work(release, work.options), step, unit) if step != "clean" else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataset.tagging.run.run_unit_of", twice)
        third = tag(release, heads, restart=True, unit_rows=64)
    assert [file.sha256 for file in third.files] == [file.sha256 for file in first.files]


def test_a_table_that_changed_meanwhile_is_not_overwritten(release: Release, tmp_path: Path) -> None:
    heads = find_heads(release.store, ["unsafe"])

    def joined_before_the_end(work: Work, step: str, unit: int) -> Any:
        if step == "finish":
            rows = pa.table({"id": [next(rows_of(release))["id"]], "nsfw": [1.0]})
            pq.write_table(rows, tmp_path / "x.parquet")
            join_tables(release, "tags", TableSource.open(str(tmp_path / "x.parquet"), JoinOn.ID, None), said="x")
        return run_unit_of(work, step, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataset.tagging.run.run_unit_of", joined_before_the_end)
        with pytest.raises(TaggingError, match="written by another command meanwhile: begin again with --restart"):
            tag(release, heads)
    assert list(read_side_tables(release)["tags"].columns) == ["nsfw"]


def test_a_head_that_was_replaced_after_the_beginning_is_refused(release: Release) -> None:
    options = options_of(release)
    release.store.delete("heads/unsafe.safetensors")
    add_head(release.store, "unsafe", linear_head(Tag.PUNSAFE, 2).to_bytes())
    with pytest.raises(TaggingError, match="restore that file, or begin again with --restart"):
        jobs.run_unit(release.store, "laion", options, "plan", 0, scratch=Path())


def options_of(release: Release) -> Options:
    heads = find_heads(release.store, ["unsafe"])
    return Options(heads={name: given.choice for name, given in heads.items()}, model=MODEL)


def test_the_table_is_a_tag_file_as_laion_publishes_them_and_a_column_of_selections(
    release: Release, tmp_path: Path
) -> None:
    tag(release, find_heads(release.store, ["unsafe"]))
    out, store = tmp_path / "export", ["--store", release.store.uri]
    exported = CliRunner().invoke(
        app, ["tags", "export", "laion", *store, "--columns", "tags.punsafe", "--out", str(out)]
    )
    assert exported.exit_code == 0, exported.output
    found = {row["hash"]: row["punsafe"] for row in pq.read_table(out).to_pylist()}
    assert found == {row["hash"]: row["punsafe"] for row in tags_of(release).values()}
    for folder in (out, Path(release.store.uri.removeprefix("file://")) / release.folder / "tags"):
        joined = TableSource.open(str(folder), JoinOn.HASH, ["punsafe"])
        table = join_tables(release, f"from_{folder.name}", joined, said=folder.name).table
        wanted = [row["punsafe"] for row in tags_of(release).values()]
        assert [row["punsafe"] for row in tags_of(release, table).values()] == wanted
    counted = CliRunner().invoke(app, ["select", "laion", *store, "--where", "tags.punsafe > 0.5", "--count", "--json"])
    assert json.loads(counted.stdout)["rows"] == sum(row["punsafe"] > 0.5 for row in tags_of(release).values())


def test_statistics_and_card_count_the_tags_in_place_of_the_releases_own(release: Release) -> None:
    before = {row["id"]: row["pwatermark"] for row in rows_of(release)}
    tag(release, find_heads(release.store, ["unsafe", "mark"]))
    said = CliRunner().invoke(app, ["stats", "laion", "--store", release.store.uri, "--json", "--no-save"])
    assert said.exit_code == 0, said.output
    figures = json.loads(said.stdout)["all"]
    tags = tags_of(release)
    assert figures["unsafe"]["rows"] == sum(row["punsafe"] > np.float32(0.5) for row in tags.values())
    marked = [tags.get(one, {}).get("pwatermark") or value for one, value in before.items()]
    assert figures["watermark"]["rows"] == sum(value > np.float32(0.8) for value in marked)
    card = release.store.read(release.path("README.md")).decode()
    assert "- `tags/`, column `punsafe`: store:heads/unsafe.safetensors" in card
    assert "); 200 pairs" in card


def test_a_removed_row_leaves_the_tags_and_what_lists_them(release: Release) -> None:
    tag(release, find_heads(release.store, ["unsafe"]))
    row, store = next(rows_of(release)), ["--store", release.store.uri]
    for command in (["add", "--url", row["URL"], "--reason", "rights"], ["apply", "laion"]):
        said = CliRunner().invoke(app, ["takedown", *command, *store])
        assert said.exit_code == 0, said.output
    live = open_release(release.store, "laion")
    table = read_side_tables(live)["tags"]
    assert (table.version, table.rows, row["id"] in tags_of(live)) == ("2.0.0", 199, False)
    check_sums(Path(release.store.uri.removeprefix("file://")) / release.folder / "tags")
    assert tag(live, find_heads(live.store, ["unsafe"])) == table
