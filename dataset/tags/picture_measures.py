"""Measure a picture classifier on the test rows at real prevalence: as a whole, by threshold, and by slices."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataset.tags.accuracy import Labels, Scores, roc_auc
from dataset.tags.prevalence import AtPrevalence, Share, Weights, at_prevalence, share_of, table_at_prevalence

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MIDDLE = 0.5
SMALLEST_SLICE = 20  # test rows: of fewer, an interval says nothing
MOST_SLICES = 12  # of one column, the largest


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the test rows: those whose `column` is `value`."""

    column: str
    value: str
    rows: int
    positives: int
    half: AtPrevalence


@dataclass(frozen=True, slots=True)
class MeasuredClassifier:
    """The accuracy on the test rows. `prevalence` is the weighted share of positives; `half` is at MIDDLE."""

    rows: int
    positives: int
    auc: float
    prevalence: Share
    half: AtPrevalence
    table: tuple[AtPrevalence, ...]
    slices: tuple[Slice, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the values that `--json` prints; a share without rows is null."""
        return {
            "test_rows": self.rows,
            "positives": self.positives,
            "auc": self.auc if np.isfinite(self.auc) else None,
            "prevalence": self.prevalence.to_json(),
            "table": [_row(row) for row in self.table],
            "slices": [
                {"column": one.column, "value": one.value, "rows": one.rows, "positives": one.positives}
                | _row(one.half)
                for one in self.slices
            ],
        }


def measure_classifier(
    scores: Scores, labels: Labels, weights: Weights, slices: Mapping[str, Sequence[str]]
) -> MeasuredClassifier:
    """Measure scores (N,) of test rows with labels of 0 and 1 and weights; `slices` has a value per row by column."""
    return MeasuredClassifier(
        rows=len(labels),
        positives=int(labels.sum()),
        auc=roc_auc(scores, labels),
        prevalence=share_of(labels == 1, weights, float(weights.max(initial=0.0))),
        half=at_prevalence(scores, labels, weights, MIDDLE),
        table=table_at_prevalence(scores, labels, weights, THRESHOLDS),
        slices=tuple(
            one for column, values in slices.items() for one in _slices(column, values, scores, labels, weights)
        ),
    )


def _slices(column: str, values: Sequence[str], scores: Scores, labels: Labels, weights: Weights) -> list[Slice]:
    found = []
    for value, rows in Counter(values).most_common(MOST_SLICES):
        if value and rows >= SMALLEST_SLICE:
            here = np.array([one == value for one in values])
            half = at_prevalence(scores[here], labels[here], weights[here], MIDDLE)
            found.append(Slice(column, value, rows, int(labels[here].sum()), half))
    return found


def _row(row: AtPrevalence) -> dict[str, Any]:
    shares = {"called": row.called, "precision": row.precision, "recall": row.recall}
    return {"threshold": row.threshold} | {name: share.to_json() for name, share in shares.items()}
