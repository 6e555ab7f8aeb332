"""Files of labels: what is refused, and how the commands that train and calibrate use them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset.formats.label_files import (
    SCHEMA,
    LabelFile,
    LabelFileError,
    LabelRecord,
    Split,
    is_label_file,
    positives,
    read_label_file,
    splits,
    write_labels,
)
from dataset.main import app
from dataset.tags.heads import read_head_file
from dataset.tags.labels import LabelledError, read_labels

RECORD = LabelRecord(
    format=1,
    task="marks",
    release="laion",
    version="1.0.0",
    classes=("watermark", "clean", "text"),
    guideline_version="2",
    guideline="A mark of ownership, on the picture itself.",
    seed=0,
)


def label_row(number: int, label: str, split: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "hash": -number, "sha256": f"{number:064x}", "split": split, "label": label, "annotator": "ada",
        "time": datetime(2026, 1, 2, tzinfo=UTC), "draw": "prompt", "prompt": "a watermark", "rank": 0,
        "similarity": 0.25, "weight": None, "guideline": "2",
    } | more  # fmt: skip


def label_file(*rows: dict[str, Any]) -> LabelFile:
    return LabelFile(RECORD, pa.Table.from_pylist([*rows], schema=SCHEMA))


def test_a_file_comes_back_by_id_and_a_class_becomes_the_label_1(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    drawn = {"draw": "uniform", "prompt": None, "rank": None, "weight": 30.0}
    write_labels(path, label_file(label_row(9, "text", "test", **drawn), label_row(4, "watermark", "train")))
    labels = read_label_file(path)
    assert is_label_file(path)
    assert (labels.record, labels.rows.schema.names) == (RECORD, SCHEMA.names)
    assert labels.rows["id"].to_pylist() == [4, 9]
    assert positives(labels, "text").tolist() == [0, 1]
    assert {split: rows.tolist() for split, rows in splits(labels).items()} == {
        Split.TRAIN: [0], Split.VALIDATION: [], Split.TEST: [1]
    }  # fmt: skip
    with pytest.raises(LabelFileError, match="name one of watermark"):
        positives(labels, "logo")
    with pytest.raises(LabelledError, match="--positive"):
        read_labels(path, 2)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([label_row(1, "logo", "train")], "the label 'logo'"),
        ([label_row(1, "text", "dev")], "the split 'dev'"),
        ([label_row(1, "text", "train", draw="guess")], "the draw 'guess'"),
        ([label_row(1, "text", "train", annotator=None)], "without annotator"),
        ([label_row(1, "text", "train"), label_row(1, "text", "train")], "an id twice"),
    ],
)
def test_rows_that_are_not_labels_are_refused(tmp_path: Path, rows: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(LabelFileError, match=sentence):
        write_labels(tmp_path / "labels.parquet", label_file(*rows))
    assert not [*tmp_path.iterdir()]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    with pytest.raises(LabelFileError, match="Cannot read"):
        read_label_file(path)
    pq.write_table(pa.table({"label": [0, 1]}), path)
    assert not is_label_file(path)
    with pytest.raises(LabelFileError, match="not a file of labels"):
        read_label_file(path)
    with pytest.raises(LabelledError, match="no classes"):
        read_labels(path, 2, positive="text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    classes, parts = ("watermark", "clean", "text"), ("train", "train", "validation", "test")
    rows = []
    for at in range(240):
        label = classes[at % 3]
        drawn = {"draw": "uniform", "prompt": None, "rank": None, "weight": 9.0} if at % 4 > 1 else {}
        near = 0.3 if label == "watermark" else 0.1
        rows.append(label_row(at, label, parts[at % 4], similarity=near + at / 10_000, **drawn))
    write_labels(made / "labels.parquet", label_file(*rows))
    vectors = rng.normal(0, 0.3, (240, 8)) + np.eye(8)[np.arange(240) % 3]
    np.save(made / "labels.npy", vectors.astype(np.float16))
    return made


def run(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def test_train_head_tests_on_the_test_rows(folder: Path, tmp_path: Path) -> None:
    words = ["train-head", "--embeddings", str(folder / "labels.npy"), "--labels", str(folder / "labels.parquet")]
    words += ["--tag", "pwatermark", "--model", "demo", "--out", str(tmp_path / "h.safetensors"), "--json"]
    said = json.loads(run(*words, "--positive", "watermark").stdout)
    assert said["rows"] == [120, 60, 60]
    assert said["auc"] > 0.9
    assert read_head_file(tmp_path / "h.safetensors").head().dimensions == 8
    at_half = next(row for row in said["release"] if row["threshold"] == 0.5)
    assert at_half["precision"]["low"] <= at_half["precision"]["share"] == pytest.approx(said["precision"])
    assert "In the release" in (tmp_path / "h.md").read_text()
    assert "--positive" in str(run(*words).exception)


def test_calibrate_uses_the_random_validation_rows(folder: Path) -> None:
    words = ["calibrate", str(folder / "labels.parquet"), "--labelled", "--json"]
    said = json.loads(run(*words, "--positive", "watermark").stdout)
    assert (said["true_positives"], said["false_positives"], said["kept"]) == (20, 0, 1 / 3)


def test_splits_without_a_label_are_refused(folder: Path, tmp_path: Path) -> None:
    labels = read_label_file(folder / "labels.parquet")
    kept = [not (row["split"] == "test" and row["label"] == "watermark") for row in labels.rows.to_pylist()]
    write_labels(tmp_path / "labels.parquet", LabelFile(RECORD, labels.rows.filter(pa.array(kept))))
    np.save(tmp_path / "labels.npy", np.load(folder / "labels.npy")[kept])
    words = ["train-head", "--embeddings", str(tmp_path / "labels.npy"), "--labels", str(tmp_path / "labels.parquet")]
    words += ["--tag", "pwatermark", "--model", "demo", "--out", str(tmp_path / "h.safetensors")]
    with pytest.raises(LabelledError, match="Only 0 rows of the split test have the label 1"):
        CliRunner().invoke(app, [*words, "--positive", "watermark"], catch_exceptions=False)
