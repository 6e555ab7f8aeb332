"""Proposing a threshold: from labels, from a share to keep, and from pairs that a model must score first."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset.errors import DatasetError
from dataset.main import app
from dataset.tags.labels import LabelledError
from dataset.tags.thresholds import propose_by_labels, propose_by_rate, table_around
from tests.demo.pictures import caption, mismatched_scene, random_scene, render

DEMO = Path(__file__).parents[2] / "demo" / "clip"


def cosines(count: int = 2_000) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    return np.where(labels == 1, rng.normal(0.31, 0.03, count), rng.normal(0.19, 0.03, count)), labels


def test_labels_put_the_threshold_between_the_two_kinds() -> None:
    proposal = propose_by_labels(*cosines())
    assert proposal.threshold == pytest.approx(0.25, abs=0.02)
    assert proposal.labelled is not None
    assert proposal.labelled.balanced_accuracy > 0.95


def test_a_precision_is_reached_at_the_lowest_threshold_that_has_it() -> None:
    similarities, labels = cosines()
    strict = propose_by_labels(similarities, labels, 0.99)
    assert strict.labelled is not None
    assert strict.labelled.precision >= 0.985
    loose = propose_by_labels(similarities, labels, 0.8)
    assert loose.threshold < strict.threshold
    with pytest.raises(LabelledError, match="the best is"):
        propose_by_labels(np.array([0.1, 0.1]), np.array([0, 1]), 0.9)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.99])
def test_a_share_is_kept_as_asked(rate: float) -> None:
    similarities, _ = cosines()
    proposal = propose_by_rate(similarities, rate)
    assert proposal.kept == pytest.approx(rate, abs=0.005)
    assert proposal.kept == np.mean(similarities >= proposal.threshold)
    assert proposal in table_around(proposal, similarities)


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.1, np.nan]), np.array([0.1, 28.0]), np.zeros((2, 2))])
def test_a_number_that_is_not_a_cosine_is_refused(bad: Any) -> None:
    with pytest.raises(LabelledError):
        propose_by_rate(bad, 0.5)


def test_a_parts_scores_give_the_recipes_line(tmp_path: Path) -> None:
    similarities, _ = cosines()
    column = pa.array([None, *similarities.tolist()], pa.float64())
    pq.write_table(pa.table({"similarity": column}), tmp_path / "a.scores.parquet")
    command = ["calibrate", str(tmp_path / "a.scores.parquet"), "--keep-rate", "0.25", "--role", "other"]
    told = CliRunner().invoke(app, command)
    line = told.stdout.splitlines()[-1]
    assert line.startswith("--set models.other.threshold=0.")
    again = CliRunner().invoke(app, ["recipe", *line.split(" ")])
    assert json.loads(again.stdout)["models"]["other"]["threshold"] == pytest.approx(0.3, abs=0.02)


def test_pairs_are_scored_by_the_model_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows: dict[str, list[Any]] = {"image": [], "text": [], "label": []}
    for number in range(40):
        scene = random_scene(rng)
        packed = io.BytesIO()
        render(scene, (200, 200), rng).save(packed, "JPEG")
        rows["image"].append(packed.getvalue())
        rows["text"].append(caption(scene if number % 2 else mismatched_scene(scene, rng), "en"))
        rows["label"].append(number % 2)
    pq.write_table(pa.table(rows), tmp_path / "pairs.parquet")
    command = ["calibrate", str(tmp_path / "pairs.parquet"), "--labelled", "--model", "demo"]
    told = CliRunner().invoke(app, [*command, "--pretrained", str(DEMO), "--json"])
    said = json.loads(told.stdout)
    assert 0.05 < said["threshold"] < 0.6
    assert said["precision"] >= 0.9
    assert said["recall"] >= 0.9


@pytest.mark.parametrize(
    "more",
    [(), ("--labelled", "--keep-rate", "0.1"), ("--keep-rate", "7"), ("--keep-rate", "0.1", "--min-precision", "1")],
)
def test_an_unclear_wish_is_refused(tmp_path: Path, more: tuple[str, ...]) -> None:
    pq.write_table(pa.table({"similarity": [0.1, 0.2]}), tmp_path / "a.parquet")
    error = CliRunner().invoke(app, ["calibrate", str(tmp_path / "a.parquet"), *more]).exception
    assert isinstance(error, DatasetError)
