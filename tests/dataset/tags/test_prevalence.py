"""Shares at real prevalence: without weights they are plain counts, and the planted ones lie in the intervals."""

import numpy as np
import pytest

from dataset.tags.accuracy import at_threshold
from dataset.tags.labels import LabelledError
from dataset.tags.prevalence import at_prevalence, share_of, weights_at
from dataset.tags.wilson import wilson


def test_equal_weights_give_plain_counts_and_wilsons_interval() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random(400), rng.integers(0, 2, 400)
    plain = at_threshold(scores, labels, 0.4)
    weighted = at_prevalence(scores, labels, np.full(400, 7.0), 0.4)
    called = plain.true_positives + plain.false_positives
    assert weighted.precision.share == pytest.approx(plain.precision)
    assert (weighted.precision.low, weighted.precision.high) == pytest.approx(wilson(plain.true_positives, called))
    assert weighted.recall.share == pytest.approx(plain.recall)
    assert weighted.called.share == pytest.approx(plain.called)
    assert weighted.precision.rows == called


def test_a_share_without_rows_has_no_value_and_the_whole_interval() -> None:
    nothing = share_of(np.zeros(0, np.bool_), np.zeros(0), 1.0)
    assert np.isnan(nothing.share)
    assert (nothing.low, nothing.high) == (0.0, 1.0)
    assert nothing.to_json() == {"share": None, "low": 0.0, "high": 1.0, "rows": 0}


def test_few_false_alarms_of_large_weight_widen_the_interval() -> None:
    hits = np.array([True] * 1_500 + [False] * 5)
    weights = np.array([0.25] * 1_500 + [1.0] * 5)
    share = share_of(hits, weights, 1.0)
    deviation = np.sqrt((weights**2 * (hits - share.share) ** 2).sum()) / weights.sum()
    assert share.high - share.low == pytest.approx(2 * 1.96 * deviation, rel=0.2)


def test_a_certain_share_is_as_uncertain_as_one_row_of_the_largest_weight_allows() -> None:
    certain = share_of(np.ones(1_000, np.bool_), np.full(1_000, 0.1), 1.0)
    assert (certain.share, certain.high) == pytest.approx((1.0, 1.0))
    assert certain.low == pytest.approx(wilson(100, 100)[0])


def test_the_planted_precision_and_recall_lie_in_nineteen_of_twenty_intervals() -> None:
    rng = np.random.default_rng(4)
    data = rng.random(200_000) < 0.06  # the data, of which samples are drawn with more of the ones
    scores = np.where(data, rng.normal(2.2, 1, len(data)), rng.normal(0, 1, len(data)))
    called = scores >= 1.5
    precision, recall = data[called].mean(), called[data].mean()
    hits = np.zeros(2)
    for _ in range(200):
        ones, zeros = (rng.choice(np.flatnonzero(data == label), 400) for label in (True, False))
        rows = np.concatenate([ones, zeros])
        weights = np.where(data[rows], data.sum() / 400, (~data).sum() / 400)
        found = at_prevalence(scores[rows], data[rows].astype(np.int64), weights, 1.5)
        hits += [one.low <= planted <= one.high for one, planted in
                 ((found.precision, precision), (found.recall, recall))]  # fmt: skip
    assert (hits >= 180).all()


def test_a_certain_recall_depends_on_the_number_of_ones_alone() -> None:
    labels, weights = np.array([1] * 40 + [0] * 10), np.array([0.1] * 40 + [5.0] * 10)
    found = at_prevalence(np.where(labels == 1, 0.9, 0.1), labels, weights, 0.5)
    assert found.recall.low == pytest.approx(wilson(40, 40)[0])
    assert found.precision.low < wilson(4, 4)[0]


def test_weights_are_scaled_to_a_prevalence() -> None:
    labels, weights = np.array([1, 1, 0, 0, 0]), np.array([1.0, 3, 2, 2, 2])
    scaled = weights_at(labels, weights, 0.06)
    assert scaled[labels == 1].sum() == pytest.approx(0.06)
    assert scaled.sum() == pytest.approx(1)
    assert scaled[1] / scaled[0] == pytest.approx(3)
    assert weights_at(labels, weights, None) is weights


@pytest.mark.parametrize(
    ("labels", "weights", "prevalence", "sentence"),
    [
        ([1, 0], [1.0, -1.0], None, "negative or missing"),
        ([1, 0], [1.0, float("nan")], None, "negative or missing"),
        ([1, 0], [0.0, 1.0], None, "no weight"),
        ([0, 0], [1.0, 1.0], None, "no weight"),
        ([1, 0], [1.0, 1.0], 1.0, "not a share"),
    ],
)
def test_weights_that_say_nothing_are_refused(
    labels: list[int], weights: list[float], prevalence: float | None, sentence: str
) -> None:
    with pytest.raises(LabelledError, match=sentence):
        weights_at(np.array(labels), np.array(weights), prevalence)
