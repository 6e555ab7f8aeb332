"""Accuracy of a score, from labels: accuracy, precision, recall, ROC AUC.

Labels are 0 or 1; a score calls a row 1 if it is at or above the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """Counts at one threshold. A ratio without a denominator is NaN."""

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def accuracy(self) -> float:
        """Return the share of rows called correctly."""
        return _share(self.true_positives + self.true_negatives, self._all)

    @property
    def balanced_accuracy(self) -> float:
        """Return the mean of the shares called correctly among ones and among zeros."""
        return (self.recall + _share(self.true_negatives, self.true_negatives + self.false_positives)) / 2

    @property
    def precision(self) -> float:
        """Return the share of ones among the rows called one."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Return the share of ones that are called one."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def called(self) -> float:
        """Return the share of all rows that are called one."""
        return _share(self.true_positives + self.false_positives, self._all)

    @property
    def _all(self) -> int:
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives


def at_threshold(scores: Scores, labels: Labels, threshold: float) -> AtThreshold:
    """Return the counts of scores (N,) with labels (N,) at a threshold."""
    called, ones = scores >= threshold, labels == 1
    true_positives = int(np.count_nonzero(called & ones))
    false_positives = int(np.count_nonzero(called)) - true_positives
    false_negatives = int(np.count_nonzero(ones)) - true_positives
    rest = len(scores) - true_positives - false_positives - false_negatives
    return AtThreshold(threshold, true_positives, false_positives, false_negatives, rest)


def by_threshold(scores: Scores, labels: Labels, thresholds: Sequence[float]) -> list[AtThreshold]:
    """Return the counts at each threshold."""
    return [at_threshold(scores, labels, threshold) for threshold in thresholds]


def roc_auc(scores: Scores, labels: Labels) -> float:
    """Return the probability that a random one scores above a random zero, ties counting half; NaN without both."""
    ones = int(np.count_nonzero(labels == 1))
    zeros = len(labels) - ones
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[place]  # 1 … N, equal scores get their mean
    return _share(float(ranks[labels == 1].sum()) - ones * (ones + 1) / 2, ones * zeros)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
