"""Propose a threshold for a model: cosines of different models are not comparable, so 0.28 is right for ViT-B/32 only.

The proposal is made from labelled pairs (1: caption and picture match), or from a share of pairs to keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.tags.accuracy import AtThreshold, Labels, Scores, at_threshold
from dataset.tags.labels import LabelledError

TABLE_ROWS = 11
DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Proposal:
    """A threshold and its effect. `labelled` is None without labels; `kept` is a share of all pairs."""

    threshold: float
    kept: float
    labelled: AtThreshold | None


def propose_by_labels(similarities: Scores, labels: Labels, min_precision: float | None = None) -> Proposal:
    """Propose the threshold with the best balanced accuracy, or the lowest one that reaches `min_precision`.

    Raises: LabelledError when no threshold has that precision, or a similarity is not a cosine.
    """
    _refuse_no_cosines(similarities)
    found = [at_threshold(similarities, labels, value) for value in _thinned(np.unique(similarities))]
    if min_precision is None:
        best = max(found, key=lambda row: row.balanced_accuracy)
    else:
        reaching = [row for row in found if row.precision >= min_precision]
        if not reaching:
            top = max(row.precision for row in found)
            raise LabelledError(f"No threshold has a precision of {min_precision}: the best is {top:.3f}.")
        best = reaching[0]
    return proposal_at(_floor(best.threshold), similarities, labels)


def propose_by_rate(similarities: Scores, keep_rate: float) -> Proposal:
    """Propose the threshold that keeps `keep_rate` (0 to 1) of the pairs.

    Raises: LabelledError when the rate is invalid, or a similarity is not a cosine.
    """
    _refuse_no_cosines(similarities)
    if not 0 < keep_rate < 1:
        raise LabelledError(f"{keep_rate} is not a share of pairs: give a number between 0 and 1.")
    return proposal_at(_floor(float(np.quantile(similarities, 1 - keep_rate))), similarities)


def proposal_at(threshold: float, similarities: Scores, labels: Labels | None = None) -> Proposal:
    """Return a threshold with its effect."""
    labelled = None if labels is None else at_threshold(similarities, labels, threshold)
    return Proposal(threshold, float(np.mean(similarities >= threshold)), labelled)


def table_around(proposal: Proposal, similarities: Scores, labels: Labels | None = None) -> list[Proposal]:
    """Return thresholds around the proposal with their effects, from the 5th to the 95th percentile of the
    similarities.
    """
    low, high = np.quantile(similarities, (0.05, 0.95))
    thresholds = sorted({*(round(float(t), 3) for t in np.linspace(low, high, TABLE_ROWS)), proposal.threshold})
    return [proposal_at(threshold, similarities, labels) for threshold in thresholds]


def _thinned(candidates: Scores, most: int = 2_000) -> Sequence[float]:
    """Return at most `most` of the candidates, evenly spaced."""
    places = np.unique(np.linspace(0, len(candidates) - 1, min(most, len(candidates))).astype(np.int64))
    return [float(value) for value in candidates[places]]


def _floor(value: float) -> float:
    """Round down, so that the pair at the threshold is kept."""
    return float(np.floor(value * 10**DECIMALS) / 10**DECIMALS)


def _refuse_no_cosines(similarities: Scores) -> None:
    if similarities.ndim != 1 or not len(similarities):
        raise LabelledError("There are no similarities: give a file with one row per pair.")
    if not np.isfinite(similarities).all() or np.abs(similarities).max() > 1 + 1e-3:
        raise LabelledError("A similarity is not a cosine (-1 to 1): remove that row.")
