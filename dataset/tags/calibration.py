"""Platt scaling: turn a network's logits into calibrated probabilities.

Source: J. Platt, "Probabilistic Outputs for Support Vector Machines" (1999).
"""

import numpy as np
import numpy.typing as npt

from dataset.tags.accuracy import Labels, Scores

NEWTON_STEPS = 50


def platt(logits: Scores, labels: Labels, weights: npt.NDArray[np.float64] | None = None) -> tuple[float, float]:
    """Return slope and shift such that sigmoid(slope · logit + shift) is the probability of a one, by Newton's method.

    All three are (N,); `weights` say for how many rows of the data each stands, and only their ratios matter.
    Targets are slightly inside 0 and 1 (Platt's targets), so that perfectly separated rows give a finite slope. A slope
    that is not positive would invert the head: then only the shift is fitted.
    """
    ones = int(labels.sum())
    zeros = len(labels) - ones
    target = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1)  # (N, 2)
    each = np.ones(len(labels)) if weights is None else weights * (len(labels) / weights.sum())
    fit = np.array([1.0, 0.0])
    for _ in range(NEWTON_STEPS):
        said = 1 / (1 + np.exp(-np.clip(design @ fit, -35, 35)))
        weight = np.maximum(said * (1 - said), 1e-9) * each
        gradient = design.T @ ((said - target) * each)
        step = np.linalg.solve(design.T @ (design * weight[:, None]) + 1e-6 * np.eye(2), gradient)
        fit = fit - step * min(1.0, 2.0 / float(np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return (float(fit[0]), float(fit[1])) if fit[0] > 0 else (1.0, 0.0)
