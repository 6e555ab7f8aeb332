"""Draws of a task from a release with planted near-duplicates: splits, weights, bands, and what is refused."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.index_files import SearchIndexError
from dataset.formats.releases import Release
from dataset.index.lookup import Index, open_index
from dataset.label.drawing import draw
from dataset.label.drawn_file import Drawn, read_drawn, write_drawn
from dataset.label.journal import LabelError
from dataset.label.prevalence import estimate
from dataset.label.random_draws import draw_random
from dataset.label.scores import Score
from dataset.label.tasks import (
    HardNegativeDraw,
    LabelClass,
    PromptDraw,
    StratifiedDraw,
    Task,
    UniformDraw,
    read_task,
)
from dataset.main import app
from dataset.recipe.tags import Tag
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store
from dataset.tags.heads import Embedder, Head, Layer, Output
from tests.dataset.index.made import build_folder
from tests.planted import MODEL, data_rows, planted, put_release

ROWS = 900
TASK = """
name = "marks"
guideline_version = "1"
guideline = "A mark of ownership."
seed = 3
random_validation = 0.25

[[classes]]
name = "watermark"
prompts = ["a clip art watermark", "a cat watermark"]
examples = [17, 400]

[[classes]]
name = "clean"

[[classes]]
name = "cannot tell"
unclear = true

[draws.prompts]
per_prompt = 30
depth = 600
bands = [[-1.0, 0.5], [0.5, 0.7], [0.7, 1.0]]

[draws.hard_negatives]
of = "watermark"
score = "pwatermark"
below = 0.5
count = 20

[draws.uniform]
count = 120

[draws.stratified]
score = "pwatermark"
edges = [0.5, 0.9]
per_stratum = 40
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    made = put_release(
        Store.open(str(tmp_path_factory.mktemp("draws"))), "laion", [planted(ROWS, dimensions=48)], rows_per_file=300
    )
    search(made, Options(model=MODEL, at=0.94, cells=16, super_cells=2))
    return made


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("vectors")
    np.save(folder / "vectors.npy", planted(ROWS, dimensions=48))  # row i has the id i
    return open_index(build_folder(folder)[0])


def task_of(folder: Path, text: str = TASK) -> Task:
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return read_task(folder / "task.toml")


def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return a direction near a row of the release for each text."""
    noise = np.stack([np.random.default_rng(len(text)).normal(0, 0.04, 48) for text in texts])
    return (planted(ROWS, dimensions=48)[[len(text) for text in texts]] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def drawn(release: Release, index: Index, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(ReleaseRows.open(release), task_of(tmp_path_factory.mktemp("task")), index, embed)


def rows_of_release(release: Release) -> dict[int, dict[str, Any]]:
    rows = ReleaseRows.open(release)
    names = ["id", "hash", "sha256", "similarity", "pwatermark", "duplicates.representative"]
    return {row["id"]: row for group in rows.row_groups() for row in rows.read(group, names).to_pylist()}


def test_no_group_straddles_splits_and_the_test_is_random(drawn: Drawn, release: Release) -> None:
    known = rows_of_release(release)
    splits: dict[int, set[str]] = {}
    for row in drawn.rows.to_pylist():
        group = known[row["id"]]["duplicates.representative"]
        assert row["group"] == (row["id"] if group is None else group)
        splits.setdefault(row["group"], set()).add(row["split"])
        assert (row["split"] == "test") <= (row["draw"] in ("uniform", "stratified"))
        assert (row["hash"], row["sha256"]) == (known[row["id"]]["hash"], known[row["id"]]["sha256"])
        if row["prompt"] is None:
            assert row["similarity"] == known[row["id"]]["similarity"]
            assert row["weight"] >= 1
        else:
            assert (row["weight"], row["stratum"]) == (None, None)
    assert {len(one) for one in splits.values()} == {1}
    assert max(Counter(drawn.rows["group"].to_pylist()).values()) > 1  # otherwise nothing was shown
    assert {*drawn.rows["split"].to_pylist()} == {"train", "validation", "test"}
    assert len({*drawn.rows["id"].to_pylist()}) == len(drawn.rows)
    assert drawn.record.left_out["its group was drawn already"] > 0
    assert not {17, 400} & {row["id"] for row in drawn.rows.to_pylist() if row["prompt"]}


def test_without_near_duplicates_pictures_with_the_same_bytes_are_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_pairs(ids: npt.NDArray[np.int64], best: npt.NDArray[np.bool_]) -> pa.Table:
        digests = pa.array([f"{one // 2:064x}" for one in ids.tolist()])
        rows = data_rows(ids, best)
        return rows.set_column(rows.schema.get_field_index("sha256"), "sha256", digests)

    monkeypatch.setattr("tests.planted.data_rows", in_pairs)
    made = put_release(Store.open(str(tmp_path)), "laion", [np.eye(60, dtype=np.float16)])
    text = TASK[: TASK.index("[draws.prompts]")] + "[draws.uniform]\ncount = 50\n"
    found = draw(ReleaseRows.open(made), task_of(tmp_path, text), None, embed)
    assert not found.record.groups
    splits: dict[int, list[str]] = {}
    for row in found.rows.to_pylist():
        splits.setdefault(row["id"] // 2, []).append(row["split"])
    assert all(len({*one}) == 1 for one in splits.values())
    assert {len(one) for one in splits.values()} == {1, 2}
    assert {split for one in splits.values() for split in one} == {"validation", "test"}


def test_weights_of_each_split_stand_for_the_release(drawn: Drawn) -> None:
    for split in ("test", "validation"):
        of_split = drawn.rows.filter(pc.equal(drawn.rows["split"], split))
        assert pc.sum(of_split["weight"]).as_py() == pytest.approx(ROWS, rel=0.25)
    at_random = drawn.rows.filter(drawn.rows["stratum"].is_valid()).to_pylist()
    for at, stratum in enumerate(drawn.record.strata):
        shares = {"test": 0.75, "validation": 0.25}
        weights = [row["weight"] * shares[row["split"]] for row in at_random if row["stratum"] == at]
        assert weights == pytest.approx([1 / stratum.probability] * len(weights))
        if stratum.rows:
            assert sum(weights) == pytest.approx(stratum.rows, rel=0.3)
    assert sum(stratum.rows for stratum in drawn.record.strata) == ROWS
    assert [stratum.rows for stratum in drawn.record.strata][3] == 0  # every row has a score


def test_pictures_near_prompts_come_from_all_bands_and_hard_negatives_score_low(
    drawn: Drawn, release: Release, index: Index
) -> None:
    known = rows_of_release(release)
    near = [row for row in drawn.rows.to_pylist() if row["draw"] == "prompt" and row["prompt"].startswith("a clip")]
    (query,) = embed(["a clip art watermark"])
    for row in near:
        (vector,) = index.embeddings([row["id"]]).astype(np.float32)
        assert row["similarity"] == pytest.approx(vector @ query / np.linalg.norm(query), abs=2e-3)
    assert {sum(row["similarity"] >= edge for edge in (0.5, 0.7)) for row in near} == {0, 1, 2}
    hard = [row for row in drawn.rows.to_pylist() if row["draw"] == "hard_negative"]
    assert hard
    assert all(row["prompt"] in ("id:17", "id:400") and known[row["id"]]["pwatermark"] < 0.5 for row in hard)


def test_the_draw_is_that_of_its_seed_and_is_written_once(
    drawn: Drawn, release: Release, index: Index, tmp_path: Path
) -> None:
    task = task_of(tmp_path)
    again = draw(ReleaseRows.open(release), task, index, embed, threads=2)
    assert again.rows.equals(drawn.rows)
    other = draw(ReleaseRows.open(release), task_of(tmp_path, TASK.replace("seed = 3", "seed = 4")), index, embed)
    assert {*other.rows["id"].to_pylist()} != {*drawn.rows["id"].to_pylist()}
    write_drawn(tmp_path / "work", drawn)
    found = read_drawn(tmp_path / "work", task)
    assert found is not None
    assert (found.record, found.rows.to_pylist()) == (drawn.record, drawn.rows.to_pylist())
    clearer = task_of(tmp_path, TASK.replace("A mark of ownership.", "A mark, also a small one."))
    assert read_drawn(tmp_path / "work", clearer) is not None
    with pytest.raises(LabelError, match="another --work"):
        read_drawn(tmp_path / "work", task_of(tmp_path, TASK.replace("a cat watermark", "a dog watermark")))


def test_a_planted_prevalence_lies_in_its_interval(release: Release) -> None:
    rows = ReleaseRows.open(release)
    truth = {one: row["pwatermark"] > 0.93 or one % 50 == 0 for one, row in rows_of_release(release).items()}
    share = sum(truth.values()) / len(truth)
    stratified = StratifiedDraw(score="pwatermark", edges=(0.5, 0.9), per_stratum=50)
    inside = []
    for seed in range(30):
        drawn = draw_random(rows, UniformDraw(count=60), stratified, Score("pwatermark", rows, None), seed)
        tallies = {}
        for at in np.unique(drawn.strata).tolist():
            ids = drawn.ids[drawn.strata == at].tolist()
            tallies[at] = (len(ids), sum(truth[one] for one in ids))
        found = estimate([one.rows for one in drawn.known], tallies)
        inside.append(found.low <= share <= found.high)
        assert found.high - found.low < 0.16
    assert sum(inside) >= 27
    naive = sum(one[1] for one in tallies.values()) / sum(one[0] for one in tallies.values())
    assert naive > found.high  # without the weights the share would be wrong


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "clean"', 'name = "watermark"', "a name of its own"),
        ('name = "clean"', 'nam = "clean"', "nam"),
        ("count = 120", "count = 0", "uniform.count"),
        ("edges = [0.5, 0.9]", "edges = [0.9, 0.5]", "ascending"),
        ('of = "watermark"', 'of = "clean"', "a class with examples"),
        ("[0.7, 1.0]", "[1.0, 0.7]", "bands"),
        ("seed = 3", 'seed = "3"', "seed"),
        ("seed = 3", "sede = 3", "sede"),
        ('guideline = "A mark of ownership."', 'guideline = " "', "write a guideline"),
        ("[draws.uniform]", "[draws.even]", "even"),
        ("seed = 3", "seed = = 3", "not TOML"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert TASK.count(old) == 1
    with pytest.raises(LabelError, match=sentence):
        task_of(tmp_path, TASK.replace(old, new))


def test_the_task_of_the_page_of_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "detectors.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    task = task_of(tmp_path, text)
    assert None not in (task.draws.prompts, task.draws.hard_negatives, task.draws.uniform, task.draws.stratified)
    keys = {field.name for kind in (Task, LabelClass, PromptDraw, HardNegativeDraw) for field in fields(kind)}
    assert keys <= {*re.findall(r"\w+", text)}


def test_a_head_scores_rows_by_the_embeddings_of_the_index(release: Release, index: Index, tmp_path: Path) -> None:
    weight = np.random.default_rng(2).normal(size=(1, 48)).astype(np.float32)
    layers = (Layer(weight, np.zeros(1, np.float32), relu=False),)
    path = tmp_path / "head.safetensors"
    path.write_bytes(Head(Tag.PWATERMARK, layers, Output.SIGMOID, Embedder("demo")).to_bytes())
    rows = ReleaseRows.open(release)
    score = Score(str(path), rows, index)
    stratified = StratifiedDraw(score=str(path), edges=(0.4, 0.6), per_stratum=20)
    drawn = draw_random(rows, None, stratified, score, 0)
    said = 1 / (1 + np.exp(-(index.embeddings(drawn.ids).astype(np.float32) @ weight[0])))
    assert drawn.strata.tolist() == np.searchsorted([0.4, 0.6], said, side="right").tolist()
    assert not drawn.uniform.any()
    with pytest.raises(LabelError, match="reads embeddings"):
        Score(str(path), rows, None)


def test_draws_say_what_they_need(release: Release, index: Index, tmp_path: Path) -> None:
    rows = ReleaseRows.open(release)
    with pytest.raises(LabelError, match="dataset index build"):
        draw(rows, task_of(tmp_path), None, embed)
    with pytest.raises(LabelError, match="no column of numbers 'TEXT'"):
        Score("TEXT", rows, None)
    with pytest.raises(LabelError, match=r"no column of numbers 'marks\.x'"):
        Score("marks.x", rows, None)
    with pytest.raises(LabelError, match="The example 999999"):
        draw(rows, task_of(tmp_path, TASK.replace("400]", "999999]")), index, embed)


def test_the_command_draws_once_and_reports_without_the_release(release: Release, tmp_path: Path) -> None:
    text = TASK[: TASK.index("[draws.prompts]")] + TASK[TASK.index("[draws.uniform]") :]
    task_of(tmp_path, text)
    words = ["label", str(tmp_path / "task.toml")]

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, [*words, *more, "--store", release.store.uri], catch_exceptions=False)

    with pytest.raises(LabelError, match="no drawn pictures"):
        run("--report")
    assert run("laion", "--draw").exit_code == 0
    before = (tmp_path / "task.labels" / "drawn.parquet").read_bytes()
    assert run("laion", "--draw").exit_code == 0
    assert (tmp_path / "task.labels" / "drawn.parquet").read_bytes() == before
    said = json.loads(run("--report", "--json").stdout)
    assert (said["labelled"], said["prevalence"]["watermark"]["share"]) == (0, None)
    assert "of laion are labelled" in run("--report").stdout
    with pytest.raises(LabelError, match="No picture is kept"):
        run("laion")
    assert run().exit_code == 2
    task_of(tmp_path)
    with pytest.raises(SearchIndexError):
        run("laion", "--draw", "--work", str(tmp_path / "near"))
