"""Accuracy in the data that a sample stands for: each row counts with its sampling weight.

A row's weight is the number of rows of the data that it stands for; only ratios matter. The 95 % intervals are Wilson's
for as many rows as a simple sample of the same variance would have. The variance is that of a ratio of two weighted
sums, by linearisation; a share of 0 or 1 has none, and then every row counts as if it had the largest weight, which a
single row of the other kind might have.

Source: the delta method for ratio estimators (Cochran, "Sampling Techniques", 3rd edition, 6.4); Korn and Graubard
(1998) for the interval with an effective size. Rejected: Kish's effective size, which is too large if the few false
alarms have large weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.tags.accuracy import Labels, Scores
from dataset.tags.labels import LabelledError
from dataset.tags.wilson import wilson

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Share:
    """A weighted share with its 95 % interval; NaN, 0 and 1 without rows. `rows` is the number of rows counted."""

    share: float
    low: float
    high: float
    rows: int

    def to_json(self) -> dict[str, float | int | None]:
        """Return its values; null for a share without rows."""
        return {"share": self.share if self.rows else None, "low": self.low, "high": self.high, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class AtPrevalence:
    """The effect of a threshold on the data: the share called, and of those the share of ones, and the ones found."""

    threshold: float
    called: Share
    precision: Share
    recall: Share


def at_prevalence(scores: Scores, labels: Labels, weights: Weights, threshold: float) -> AtPrevalence:
    """Return the effect of a threshold by scores, labels of 0 and 1, and weights, all (N,)."""
    called, ones = scores >= threshold, labels == 1
    largest = float(weights.max(initial=0.0))
    return AtPrevalence(
        threshold,
        share_of(called, weights, largest),
        share_of(ones[called], weights[called], largest),
        share_of(called[ones], weights[ones], float(weights[ones].max(initial=0.0))),
    )


def table_at_prevalence(
    scores: Scores, labels: Labels, weights: Weights, thresholds: Sequence[float]
) -> tuple[AtPrevalence, ...]:
    """Return the effect of each threshold."""
    return tuple(at_prevalence(scores, labels, weights, threshold) for threshold in thresholds)


def share_of(hits: npt.NDArray[np.bool_], weights: Weights, largest: float) -> Share:
    """Return the weighted share of hits (N,); `largest` is the largest weight that a row may have."""
    total = float(weights.sum())
    if not total:
        return Share(float("nan"), 0.0, 1.0, len(hits))
    share = float(weights[hits].sum()) / total
    variance = float((weights**2 * (hits - share) ** 2).sum()) / total**2
    certain = variance < 1e-15
    effective = total / largest if certain else share * (1 - share) / variance
    return Share(share, *wilson(share * effective, effective), len(hits))


def weights_at(labels: Labels, weights: Weights, prevalence: float | None) -> Weights:
    """Return weights with which ones are the share `prevalence` of the data; None leaves them as they are.

    Raises: LabelledError when the share is not between 0 and 1, a weight is negative or not finite, or a label has no
    weight.
    """
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise LabelledError("A sampling weight is negative or missing: give one of at least 0 to each row.")
    ones, zeros = float(weights[labels == 1].sum()), float(weights[labels == 0].sum())
    if not ones or not zeros:
        raise LabelledError("A label has no weight among the rows: give rows with both labels.")
    if prevalence is None:
        return weights
    if not 0 < prevalence < 1:
        raise LabelledError(f"{prevalence} is not a share of the data: give a number between 0 and 1.")
    return np.where(labels == 1, weights * (prevalence / ones), weights * ((1 - prevalence) / zeros))
