"""`dataset dedup` on releases with planted near-duplicates, compared with a greedy search over all pairs."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from dataset.dedup import prepare, rescore
from dataset.dedup import work as dedup_work
from dataset.dedup.arrays import Arrays
from dataset.dedup.errors import DedupError
from dataset.dedup.options import Options
from dataset.dedup.quality import DEFAULT_ORDER, quality_keys
from dataset.dedup.rescore import cosine_steps, to_steps
from dataset.dedup.run import search
from dataset.formats.duplicates import REPORT
from dataset.formats.releases import README, FileKind, Release
from dataset.formats.side_tables import read_side_tables
from dataset.main import app
from dataset.select.errors import SelectError
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store
from tests.planted import MODEL, planted, put_release

ROWS, AT = 1_500, 0.94
Halves = npt.NDArray[np.float16]
OPTIONS = Options(model=MODEL, at=AT, cells=32, super_cells=4)


@pytest.fixture(scope="module")
def vectors() -> Halves:
    """Rows of 64 dimensions, which codes keep whole."""
    return planted(ROWS, dimensions=64)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, vectors: Halves) -> Release:
    """A release that was searched in many cells; nothing changes it."""
    release = made(tmp_path_factory.mktemp("searched"), [vectors])
    search(release, OPTIONS)
    return release


def made(folder: Path, batches: list[Halves], **options: Any) -> Release:
    return put_release(Store.open(str(folder)), "laion", batches, rows_per_file=600, **options)


def table_of(release: Release) -> list[dict[str, Any]]:
    files = read_side_tables(release)["duplicates"].files
    return [row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()]


def representatives(release: Release) -> npt.NDArray[np.int64]:
    return np.array([row["representative"] for row in table_of(release)])


def bytes_of(release: Release) -> dict[str, str]:
    return {file.path: file.sha256 for file in read_side_tables(release)["duplicates"].files}


def quality_order(release: Release) -> npt.NDArray[np.int64]:
    data = [release.store.read_table(release.path(file.path)) for file in release.files(FileKind.DATA)]
    keys = np.concatenate([quality_keys(rows, DEFAULT_ORDER) for rows in data])
    return np.lexsort((np.arange(len(keys)), keys))


def near(vectors: Halves, at: float = AT) -> npt.NDArray[np.bool_]:
    """Return which pairs reach a cosine, in the steps in which it is counted."""
    count = len(vectors)
    rows = [cosine_steps(np.repeat(vectors[one : one + 1], count, axis=0), vectors) for one in range(count)]
    return np.array(rows) >= to_steps(at)


def greedy(pairs: npt.NDArray[np.bool_], order: npt.NDArray[np.int64]) -> set[int]:
    """Return who is kept: in this order, each row that is near none of those kept before."""
    covered = np.zeros(len(order), bool)
    kept = set()
    for row in order.tolist():
        if not covered[row]:
            kept.add(row)
            covered |= pairs[row]
    return kept


def test_one_cell_gives_the_greedy_result(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors])
    search(release, Options(model=MODEL, at=AT, cells=1))
    kept = greedy(near(vectors), quality_order(release))
    assert set(representatives(release).tolist()) == kept
    assert {row["id"] for row in table_of(release) if row["kind"] == "self"} == kept


def test_many_cells_keep_the_promises_and_nearly_the_greedy_result(searched: Release, vectors: Halves) -> None:
    release = searched
    report = json.loads(release.store.read(release.path(REPORT)))
    rows = table_of(release)
    found = representatives(release)
    cosines = cosine_steps(vectors, vectors[found])
    assert (cosines >= to_steps(AT)).all()
    assert [round(row["cosine"] * 10_000) for row in rows] == cosines.tolist()
    assert set(found[found]) == set(found)
    pairs = near(vectors)
    kept = np.unique(found)
    missed = (pairs[np.ix_(kept, kept)].sum() - len(kept)) // 2
    removable = ROWS - len(greedy(pairs, quality_order(release)))
    assert missed <= 0.02 * removable
    assert report["checks"]["members_compared"] == ROWS - len(kept) == sum(report["members"].values())


def test_table_says_who_is_in_a_group(searched: Release, vectors: Halves) -> None:
    release = searched
    rows = {row["id"]: row for row in table_of(release)}
    data = {
        row["id"]: row
        for file in release.files(FileKind.DATA)
        for row in release.store.read_table(release.path(file.path)).to_pylist()
    }
    groups: dict[int, list[int]] = {}
    for one, row in rows.items():
        groups.setdefault(row["representative"], []).append(one)
    assert max(map(len, groups.values())) > 20
    for representative, members in groups.items():
        row = rows[representative]
        assert all(rows[one]["group_size"] == len(members) for one in members)
        assert row["weight_inverse"] == pytest.approx(1 / len(members))
        if len(members) == 1:
            assert row["captions"] is None
            continue
        ordered = sorted(members, key=lambda one: (-data[one]["similarity"], one))
        assert row["captions"] == [data[one]["TEXT"] for one in ordered]
        assert row["top_caption"] == row["captions"][0]
        assert row["similarities"] == pytest.approx([data[one]["similarity"] for one in ordered])
        assert row["hosts"] == len({data[one]["URL"].split("/")[2] for one in members})
    kinds = {row["kind"] for row in rows.values()}
    assert kinds == {"self", "exact", "near"}
    equal = [row for row in rows.values() if row["kind"] == "exact"]
    assert all((vectors[row["id"]] == vectors[row["representative"]]).all() for row in equal)


def test_equal_bytes_are_named_so(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors])
    search(release, Options(model=MODEL, at=AT))
    row = next(row for row in table_of(release) if row["kind"] == "near")
    file = next(file for file in release.files(FileKind.DATA) if file.first_id <= row["id"] <= file.last_id)
    table = release.store.read_table(release.path(file.path))
    same = f"{row['representative'] * 0x9E3779B97F4A7C15 % 2**64:016x}".ljust(64, "0")
    ids, known = table["id"].to_pylist(), table["sha256"].to_pylist()
    digests = [same if one == row["id"] else digest for one, digest in zip(ids, known, strict=True)]
    place = table.schema.get_field_index("sha256")
    release.store.write_table(release.path(file.path), table.set_column(place, "sha256", [digests]))
    search(release, Options(model=MODEL, at=AT), restart=True)
    assert next(one for one in table_of(release) if one["id"] == row["id"])["kind"] == "bytes"


def test_bytes_depend_neither_on_files_nor_on_processes(tmp_path: Path, searched: Release, vectors: Halves) -> None:
    other = made(tmp_path, [vectors], order_seed=8, embeddings_per_file=500)
    report = search(other, OPTIONS, processes=2, memory_bytes=1 << 30)
    assert bytes_of(other) == bytes_of(searched)
    assert report == searched.store.read(searched.path(REPORT))


def test_object_store_gives_the_same_bytes(
    tmp_path: Path, searched: Release, vectors: Halves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "local_path", lambda *_: None)  # what an object store answers: nothing can be mapped
    other = made(tmp_path, [vectors])
    search(other, OPTIONS)
    assert bytes_of(other) == bytes_of(searched)


def test_copied_embeddings_give_the_same_bytes_and_are_all_that_rounds_read(
    tmp_path: Path, vectors: Halves, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [vectors[:1_200], vectors[1_200:]]
    plain = made(tmp_path / "plain", batches, embeddings_per_file=500)
    search(plain, OPTIONS)
    monkeypatch.setattr(dedup_work, "COPY_FROM_ROWS", 1_200)
    monkeypatch.setattr(prepare, "BLOCK_ROWS", 170)
    copied = made(tmp_path / "copied", batches, embeddings_per_file=500)
    moved = tmp_path / "copied/releases/laion/embeddings"

    def hide(step: str, done: int, units: int) -> None:
        if step == "gather" and done == units and copied.store.exists(f"dedup/laion/v1/{MODEL}/2026-11-02/home/3"):
            for file in moved.rglob("*.npy"):
                file.unlink()

    search(copied, OPTIONS, on_progress=hide)
    assert not [*moved.rglob("*.npy")]
    assert bytes_of(copied) == bytes_of(plain)
    assert copied.store.read(copied.path(REPORT)) == plain.store.read(plain.path(REPORT))
    left = {path.split("/")[5] for path in copied.store.list(f"dedup/laion/v1/{MODEL}/2026-11-01")}
    assert left == {"borders", "copy", "home"}


def test_batch_that_makes_a_release_large_is_copied(
    tmp_path: Path, vectors: Halves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup_work, "COPY_FROM_ROWS", 1_400)
    search(made(tmp_path / "one", [vectors[:1_300]]), OPTIONS)
    both = made(tmp_path / "one", [vectors[:1_300], vectors[1_300:]])
    search(both, OPTIONS)
    assert [batch.copied for batch in dedup_work.Work(both, OPTIONS).plan.batches] == [False, True]
    monkeypatch.undo()
    anew = made(tmp_path / "anew", [vectors[:1_300], vectors[1_300:]])
    search(anew, OPTIONS)
    assert table_of(both) == table_of(anew)


def test_new_batch_leaves_representatives_as_they_are(tmp_path: Path, vectors: Halves) -> None:
    options = Options(model=MODEL, at=AT, cells=16, super_cells=4)
    first = made(tmp_path, [vectors[:1_300]])
    search(first, options)
    before = representatives(first)
    both = made(tmp_path, [vectors[:1_300], vectors[1_300:]])
    steps: list[str] = []
    search(both, options, on_progress=lambda step, *_: steps.append(step))
    after = representatives(both)
    assert (after[:1_300] == before).all()
    assert (after[1_300:] < 1_300).any()
    assert steps.count("new") == 2 * 4  # one round, and one for orphans
    assert len(after) == ROWS
    anew = made(tmp_path / "anew", [vectors[:1_300], vectors[1_300:]])
    search(anew, options)
    assert (representatives(anew) == after).all()
    checks, of_all = (json.loads(one.store.read(one.path(REPORT)))["checks"] for one in (both, anew))
    assert checks["members_compared_before"] == (before != np.arange(1_300)).sum()
    assert checks | {"members_compared_before": 0} == of_all


def test_rows_that_changed_since_they_were_checked_are_compared_again(tmp_path: Path, vectors: Halves) -> None:
    first = made(tmp_path, [vectors[:1_300]])
    search(first, OPTIONS)
    both = made(tmp_path, [vectors[:1_300], vectors[1_300:]])
    home = f"dedup/laion/v1/{MODEL}/2026-11-01/home/0"
    path = tmp_path / home
    place = path.read_bytes().index(Arrays(first.store, home).read("row").tobytes())
    with path.open("r+b") as file:
        file.seek(place)
        rows = np.frombuffer(path.read_bytes()[place : place + 1_600], np.int64)
        file.write(rows[::-1].tobytes())
    with pytest.raises(DedupError, match="were changed meanwhile"):
        search(both, OPTIONS)


def test_batch_without_rows_in_a_super_cell_is_searched(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors[:300], vectors[300:301]])
    search(release, OPTIONS)
    assert len(table_of(release)) == 301


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_few_rows_in_more_super_cells_than_there_are_cells(tmp_path: Path, vectors: Halves, rows: int) -> None:
    release = made(tmp_path, [np.concatenate([vectors[:rows], vectors[:1]])])
    report = json.loads(search(release, Options(model=MODEL, at=AT, super_cells=4)))
    found = representatives(release)
    assert found[rows] == found[0] in (0, rows)
    assert report["rows"] == rows + 1
    assert report["checks"]["members_compared"] == rows + 1 - report["representatives"]


def test_more_super_cells_and_files_than_may_be_open(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors[:300]], embeddings_per_file=20)
    options = Options(model=MODEL, at=AT, cells=32, super_cells=16)
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/proc/self/fd").iterdir()]) + 8, most))
    try:
        search(release, options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))
    assert json.loads(release.store.read(release.path(REPORT)))["parameters"]["super_cells"] == 16
    assert len(table_of(release)) == 300


def test_fewer_files_are_kept_mapped_than_there_are(
    tmp_path: Path, searched: Release, vectors: Halves, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (rescore, dedup_work):
        monkeypatch.setattr(module, "MAX_OPEN", 2)
    other = made(tmp_path, [vectors], embeddings_per_file=200)
    search(other, OPTIONS)
    assert bytes_of(other) == bytes_of(searched)


def test_second_call_keeps_what_is_there(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors])
    first = search(release, Options(model=MODEL, at=AT))
    steps: list[str] = []
    assert search(release, Options(model=MODEL, at=AT), on_progress=lambda step, *_: steps.append(step)) == first
    assert steps == []
    with pytest.raises(DedupError, match="with other options"):
        search(release, Options(model=MODEL, at=0.96))
    search(release, Options(model=MODEL, at=0.96), restart=True)
    assert read_side_tables(release)["duplicates"].generation == 2


def test_scratch_stays_below_a_kilobyte_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SAMPLE_ROWS", 200)  # a tenth of the rows, as of 1M
    release = made(tmp_path, [planted(2_000, dimensions=160)])
    largest = 0

    def measure(*_: object) -> None:
        nonlocal largest
        files = (tmp_path / "dedup").rglob("*")
        largest = max(
            largest, sum(file.stat().st_size for file in files if file.is_file() and "done" not in file.parts)
        )

    search(release, Options(model=MODEL, at=AT), on_progress=measure)
    assert 500 < largest / 2_000 < 1_000


def test_group_that_comes_first_in_quality_costs_about_a_pair_a_member(tmp_path: Path, vectors: Halves) -> None:
    draw = np.random.default_rng(4)
    giant = vectors[:1] + draw.normal(0, 0.01, (1_500, 64))
    rows = np.concatenate([vectors, (giant / np.linalg.norm(giant, axis=1, keepdims=True)).astype(np.float16)])
    release = made(tmp_path, [rows], best=np.arange(len(rows)) >= ROWS)
    results: dict[str, int] = {}
    search(release, Options(model=MODEL, at=AT, cells=8, super_cells=1))
    for path in release.store.list("dedup/laion"):
        if "/rest/" in path:
            results[path] = release.store.size(path)
    assert max(results.values()) < 1_500 * 50 * 10  # bytes of a pair; all pairs would be 750 a row
    found = representatives(release)
    assert (cosine_steps(rows, rows[found]) >= to_steps(AT)).all()
    kept = np.unique(found)
    pairs = near(rows[kept])
    assert pairs.sum() - len(kept) <= 10  # both ways, of pairs that the cells separate


def test_command_prints_the_report(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors])
    arguments = ["dedup", "laion", "--model", MODEL, "--store", str(tmp_path), "--workers", "1"]
    said = CliRunner().invoke(app, [*arguments, "--at", "0.94"])
    assert said.exit_code == 0, said.output
    assert "representatives" in said.stdout
    assert "### Near-duplicates\n\nCosine at least 0.94." in release.store.read(release.path(README)).decode()
    read = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert read["rows"] == ROWS
    assert ReleaseRows.open(made(tmp_path, [vectors])).schema.field("duplicates.representative")


def test_selection_without_duplicates_has_the_representatives(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors[:1_300]])
    search(release, Options(model=MODEL, at=AT))
    kept = np.unique(representatives(release))
    arguments = ["select", "laion", "--store", str(tmp_path), "--drop-duplicates", "--out", str(tmp_path / "selected")]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    read = Store.open(str(tmp_path / "selected")).read_table("part-00000.parquet", ["id"])
    assert read["id"].to_pylist() == kept.tolist()
    made(tmp_path, [vectors[:1_300], vectors[1_300:]])
    later = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "later")])
    assert isinstance(later.exception, SelectError)
    assert "run dataset dedup again" in str(later.exception)


def test_pdq_hashes_decide_in_the_grey_zone(tmp_path: Path, vectors: Halves) -> None:
    rows = vectors[:300].copy()
    draw = np.random.default_rng(6)
    noise = draw.normal(size=(4, 64))
    for one, way in enumerate(noise):  # ids 100 to 103 at .92 to ids 0 to 3
        source = rows[one].astype(np.float64) / np.linalg.norm(rows[one].astype(np.float64))
        way -= (way @ source) * source
        rows[100 + one] = (0.92 * source + np.sqrt(1 - 0.92**2) * way / np.linalg.norm(way)).astype(np.float16)
    pdq: list[bytes | None] = [draw.bytes(32) for _ in range(300)]
    pdq[100] = pdq[0]
    pdq[101] = bytes(
        a ^ b for a, b in zip(pdq[1] or b"", bytes([255] * 7 + [0b1111] + [0] * 24), strict=True)
    )  # 60 bits
    pdq[102] = bytes(a ^ b for a, b in zip(pdq[2] or b"", bytes([255] * 7 + [0b11111] + [0] * 24), strict=True))  # 61
    pdq[3] = pdq[103] = None
    release = made(tmp_path, [rows], pdq=pdq)
    report = json.loads(search(release, Options(model=MODEL, at=AT, with_pdq=True, cells=1)))
    table = table_of(release)
    joined = [{table[one]["representative"], table[100 + one]["representative"]} for one in range(4)]
    assert [len(one) for one in joined] == [1, 1, 2, 2]
    assert {row["kind"] for row in (table[0], table[100])} == {"self", "pdq"}
    assert report["checks"]["lowest_cosine"] == pytest.approx(0.92, abs=2e-3)
    search(release, Options(model=MODEL, at=AT, cells=1), restart=True)
    assert len({table_of(release)[one]["representative"] for one in (0, 100)}) == 2


def test_statistics_tell_groups_by_size(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors[:900]])
    search(release, Options(model=MODEL, at=AT))
    groups = np.unique(representatives(release), return_counts=True)[1]
    said = CliRunner().invoke(app, ["stats", "laion", "--store", str(tmp_path), "--json"])
    assert said.exit_code == 0, said.exception
    told = json.loads(said.stdout)
    assert told["duplicates"]["representatives"] == len(groups)
    assert told["duplicates"]["groups_by_lowest_size"]["2"] == ((groups == 2) | (groups == 3)).sum()
    shown = CliRunner().invoke(app, ["stats", "laion", "--store", str(tmp_path)]).stdout
    assert "### Near-duplicates" in shown
    assert "| 2–3 " in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"at": 0.5}, "out of range"),
        ({"model": "ViT-H-14"}, "has no embeddings of ViT-H-14"),
        ({"quality": ("sharp", "hash")}, "no criterion sharp"),
        ({"quality": ("hash", "safe")}, "hash at its end"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, vectors: Halves, options: dict[str, Any], said: str) -> None:
    release = made(tmp_path, [vectors[:50]])
    with pytest.raises(DedupError, match=said):
        search(release, Options(**{"model": MODEL, "at": AT, **options}))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_rows_without_a_direction_are_refused(tmp_path: Path, vectors: Halves, value: float) -> None:
    broken = vectors[:500].copy()
    broken[17] = value
    release = made(tmp_path, [broken])
    with pytest.raises(DedupError, match=r"1 of \d+ rows are NaN, infinite or zero"):
        search(release, Options(model=MODEL, at=AT))


def test_too_little_room_is_refused(tmp_path: Path, vectors: Halves, monkeypatch: pytest.MonkeyPatch) -> None:
    release = made(tmp_path, [vectors])
    free = shutil.disk_usage(tmp_path)._replace(free=ROWS * 1_100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with monkeypatch.context() as many:
        many.setattr(dedup_work, "COPY_FROM_ROWS", ROWS)
        with pytest.raises(DedupError, match="make room, or move the store"):
            search(release, OPTIONS)
    search(release, OPTIONS)


def test_too_little_memory_and_changed_embeddings_are_refused(tmp_path: Path, vectors: Halves) -> None:
    release = made(tmp_path, [vectors])
    with pytest.raises(DedupError, match="give --memory"):
        search(release, Options(model=MODEL, at=AT), memory_bytes=100 << 20)
    search(release, Options(model=MODEL, at=AT))
    changed = made(tmp_path, [vectors], order_seed=9)
    with pytest.raises(DedupError, match="have changed"):
        search(changed, Options(model=MODEL, at=AT))


@pytest.mark.parametrize(("said", "with_format"), [("has the format 1, not 3", 1), ("cannot be read", "one")])
def test_a_search_of_another_format_says_that_it_has_to_be_made_anew(
    tmp_path: Path, vectors: Halves, said: str, with_format: object
) -> None:
    release, options = made(tmp_path, [vectors[:200]]), Options(model=MODEL, at=AT, cells=1)
    search(release, options)
    before = table_of(release)
    path = f"{dedup_work.work_folder(release, MODEL)}/state.json"
    release.store.put(path, json.dumps(json.loads(release.store.read(path)) | {"format": with_format}).encode())
    with pytest.raises(DedupError, match=f"{said}.*--restart"):
        search(release, options)
    search(release, options, restart=True)
    assert table_of(release) == before
