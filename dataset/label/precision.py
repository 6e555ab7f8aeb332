"""Precision by threshold, from answers on a stratified sample.

Strata are weighted with their pairs. The interval is Wilson's for as many answers as a simple sample would need for the
same weights (Kish's effective size), rounded down. Strata without an answer count as wrong in the lower bound and as
right in the upper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataset.dedup.wilson import wilson
from dataset.label.answers import RIGHT, WRONG
from dataset.label.pairs import EDGES, Pair, Stratum


@dataclass(frozen=True, slots=True)
class Precision:
    """Of all pairs whose cosine is at least `at`."""

    at: float
    pairs: int
    answers: int
    """Without those that cannot be told."""
    wrong: int
    share: float | None
    low: float
    high: float


def precision_table(
    counts: Mapping[Stratum, int], drawn: Sequence[Pair], given: Mapping[int, str], at: float
) -> list[Precision]:
    """Return precision at the threshold of the search and at each edge above it."""
    tallies: dict[Stratum, list[int]] = {}
    for pair in drawn:
        answer = given.get(pair.member)
        if answer in (*RIGHT, *WRONG):
            tally = tallies.setdefault(pair.stratum, [0, 0])
            tally[0] += 1
            tally[1] += answer in RIGHT
    lowest = max([place for place, edge in enumerate(EDGES) if edge <= at + 1e-9], default=0)
    return [
        _above({one: count for one, count in counts.items() if one[0] >= place}, tallies, max(at, EDGES[place]))
        for place in range(lowest, len(EDGES))
    ]


def pick(table: Sequence[Precision], wanted: float) -> float | None:
    """Return the lowest threshold whose lower bound reaches the wanted precision; None if there is none."""
    return next((one.at for one in table if one.pairs and one.low >= wanted), None)


def _above(counts: Mapping[Stratum, int], tallies: Mapping[Stratum, Sequence[int]], at: float) -> Precision:
    pairs = sum(counts.values())
    known = {one: count for one, count in counts.items() if one in tallies}
    weight = sum(known.values())
    if not weight:
        return Precision(at, pairs, 0, 0, None, 0.0, 1.0)
    answers = sum(tallies[one][0] for one in known)
    right = sum(tallies[one][1] for one in known)
    share = sum(count / weight * tallies[one][1] / tallies[one][0] for one, count in known.items())
    effective = int(1 / sum((count / weight) ** 2 / tallies[one][0] for one, count in known.items()) + 1e-9)
    low, high = wilson(int(share * effective + 1e-9), effective)
    seen = weight / pairs
    return Precision(at, pairs, answers, answers - right, share, low * seen, high * seen + 1 - seen)
