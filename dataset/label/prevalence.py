"""The share of a class in the whole release, estimated from pictures that were drawn at random.

The strata's shares are weighted with their rows: p = Σ W p_h. The interval is Wilson's for as many answers as a simple
sample would need for the same variance (E. Korn, B. Graubard, Confidence intervals for proportions with small expected
number of positive counts estimated from survey data, 1998). A stratum's variance is computed from (x + 1) / (n + 2), so
that a stratum without a positive does not count as certain; a uniform draw gives Wilson's interval itself. Strata
without an answer count as 0 in the lower bound and as 1 in the upper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataset.tags.wilson import wilson


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of the rows of a release, with its 95 % interval; `share` is None without answers."""

    answers: int
    positives: int
    share: float | None
    low: float
    high: float


def estimate(rows: Sequence[int], tallies: Mapping[int, tuple[int, int]]) -> Estimate:
    """Return the share of positives; `rows` are those of each stratum, `tallies` have its answers and positives."""
    known = {at: one for at, one in tallies.items() if one[0]}
    answers, positives = (sum(one[at] for one in known.values()) for at in (0, 1))
    weight = sum(rows[at] for at in known)
    if not weight:
        return Estimate(0, 0, None, 0.0, 1.0)
    share = smooth = variance = 0.0
    for at, (given, ones) in known.items():
        part, mild = rows[at] / weight, (ones + 1) / (given + 2)
        share += part * ones / given
        smooth += part * mild
        variance += part**2 * mild * (1 - mild) / given
    effective = smooth * (1 - smooth) / variance
    low, high = wilson(share * effective, effective)
    seen = weight / sum(rows)
    return Estimate(answers, positives, share, low * seen, high * seen + 1 - seen)
