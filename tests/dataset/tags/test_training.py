"""Training a head: unusable data are refused, and the printed figures equal an independent count."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from dataset.errors import DatasetError
from dataset.main import app
from dataset.recipe.tags import Tag
from dataset.tags.accuracy import at_threshold, roc_auc
from dataset.tags.calibration import platt
from dataset.tags.heads import Embedder, HeadError, read_head_file
from dataset.tags.labels import LabelledError, read_embedding_column, read_labels
from dataset.tags.training import Schedule, split_rows, train_head


def blobs(count: int, noise: float = 1.0, share: float = 0.3, seed: int = 0) -> tuple[Any, Any]:
    """Two clouds of unit rows in 32 dimensions, that overlap by `noise`."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < share).astype(np.int64)
    rows = rng.normal(0, noise, (count, 32)) + np.where(labels[:, None] == 1, 0.5, -0.5) * (-1) ** np.arange(32) + 3
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@given(st.data())
def test_the_roc_auc_is_the_share_of_pairs_in_the_right_order(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 25))
    scores = np.array(data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)), np.float64)
    labels = np.array([0, 1, *data.draw(st.lists(st.integers(0, 1), min_size=count - 2, max_size=count - 2))])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert roc_auc(scores, labels) == pytest.approx(np.mean(pairs))


def test_the_counts_at_a_threshold_are_a_plain_count() -> None:
    row = at_threshold(np.array([0.1, 0.5, 0.5, 0.9, 0.2]), np.array([0, 1, 0, 1, 1]), 0.5)
    assert (row.true_positives, row.false_positives, row.false_negatives, row.true_negatives) == (2, 1, 1, 1)
    assert (row.precision, row.recall, row.accuracy, row.called) == (2 / 3, 2 / 3, 0.6, 0.6)


def test_a_split_has_every_row_once_and_the_same_mix_in_each_part() -> None:
    _, labels = blobs(1_000)
    split = split_rows(labels, seed=3)
    whole = np.concatenate([split.training, split.validation, split.test])
    assert sorted(whole) == list(range(1_000))
    for part in (split.training, split.validation, split.test):
        assert labels[part].mean() == pytest.approx(labels.mean(), abs=0.01)
    assert not np.array_equal(split_rows(labels, seed=4).test, split.test)


def test_a_head_learns_separable_labels_with_calibrated_probabilities() -> None:
    rows, labels = blobs(2_000, noise=2.0)
    head, measured = train_head(rows, labels, Tag.PUNSAFE, Embedder("demo"), Schedule(max_epochs=30))
    fresh, truth = blobs(4_000, noise=2.0, seed=9)
    scores = head.score(fresh).astype(np.float64)
    assert measured.auc > 0.95
    assert roc_auc(scores, truth) == pytest.approx(measured.auc, abs=0.03)
    for low, high in ((0.0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.9, 1.0)):
        said = (scores >= low) & (scores < high)
        assert truth[said].mean() == pytest.approx(scores[said].mean(), abs=0.1)


def test_the_same_seed_gives_the_same_head() -> None:
    rows, labels = blobs(300)
    heads = [train_head(rows, labels, Tag.PUNSAFE, Embedder("m"), Schedule(max_epochs=3))[0] for _ in range(2)]
    assert heads[0].to_bytes() == heads[1].to_bytes()


def test_labels_that_are_noise_give_no_confident_head() -> None:
    rows, labels = blobs(1_000, share=0.3)
    shuffled = np.random.default_rng(1).permutation(labels)
    head, measured = train_head(rows, shuffled, Tag.PUNSAFE, Embedder("m"), Schedule(max_epochs=20))
    assert 0.35 < measured.auc < 0.65
    assert head.score(rows).mean() == pytest.approx(0.3, abs=0.1)


def test_rows_that_are_told_apart_perfectly_give_a_finite_slope() -> None:
    slope, shift = platt(np.array([-4.0, -3, 3, 4] * 10), np.array([0, 0, 1, 1] * 10))
    assert 0 < slope < 50
    assert abs(shift) < 5


# --- what is refused


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.zeros((4, 3), np.float32), "zero or not finite"),
        (np.full((4, 3), np.nan, np.float32), "zero or not finite"),
        (np.ones((4, 3), np.int64), "matrix of floats"),
        (np.ones(4, np.float32), "matrix of floats"),
    ],
)
def test_embeddings_without_a_direction_are_refused(tmp_path: Path, rows: Any, sentence: str) -> None:
    np.save(tmp_path / "e.npy", rows)
    with pytest.raises(LabelledError, match=sentence):
        read_embedding_column(tmp_path / "e.npy")


@pytest.mark.parametrize(
    "labels",
    [np.array([0, 1, 2]), np.array([0, 1]), np.array([1, 1, 1]), np.array(["a", "b", "c"]), np.array([[0, 1, 1]])],
)
def test_labels_other_than_0_and_1_are_refused(tmp_path: Path, labels: Any) -> None:
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(LabelledError):
        read_labels(tmp_path / "l.npy", 3)


def test_too_few_of_a_label_are_refused() -> None:
    rows, labels = blobs(300, share=0.03)
    with pytest.raises(LabelledError, match="at least 20"):
        train_head(rows, labels, Tag.PUNSAFE, Embedder("m"))


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(LabelledError, match="Cannot read"):
        read_embedding_column(tmp_path / "e.npy")


# --- the command


def trained(folder: Path, *more: str) -> Result:
    command = ["train-head", "--embeddings", str(folder / "e.npy"), "--labels", str(folder / "l.parquet")]
    return CliRunner().invoke(app, [*command, "--tag", "punsafe", "--model", "demo", *more])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows, labels = blobs(600)
    np.save(tmp_path / "e.npy", rows.astype(np.float16))
    pq.write_table(pa.table({"label": labels.astype(bool)}), tmp_path / "l.parquet")
    return tmp_path


def test_train_head_writes_a_head_with_its_card_and_prints_what_it_measured(folder: Path) -> None:
    told = trained(folder, "--out", str(folder / "mine.safetensors"), "--json")
    said = json.loads(told.stdout)
    head = read_head_file(folder / "mine.safetensors").head()
    card = (folder / "mine.md").read_text()
    assert head.dimensions == 32
    assert head.about["auc"] == said["auc"] > 0.9
    assert said["rows"] == [420, 90, 90]
    assert f"ROC AUC {said['auc']:.4f}" in card
    assert [row["threshold"] for row in said["table"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def test_rows_of_a_parquet_are_as_good_as_npy(folder: Path) -> None:
    rows = np.load(folder / "e.npy").astype(np.float32)
    pq.write_table(pa.table({"embedding": list(rows)}), folder / "e.parquet")
    np.testing.assert_array_equal(read_embedding_column(folder / "e.parquet"), read_embedding_column(folder / "e.npy"))
    pq.write_table(pa.table({"embedding": [[1.0], [1.0, 2.0]]}), folder / "odd.parquet")
    with pytest.raises(LabelledError, match="several lengths"):
        read_embedding_column(folder / "odd.parquet")


@pytest.mark.parametrize(
    "more", [("--out", "x.pt"), ("--out", "x.safetensors", "--hidden", "many"), ("--out", "/no/such/x.safetensors")]
)
def test_train_head_refuses_in_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    error = trained(folder, *more).exception
    assert isinstance(error, DatasetError)
    assert "\n" not in str(error)
    assert isinstance(error, HeadError)
