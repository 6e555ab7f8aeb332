"""Precision by threshold, from answers on a stratified sample.

Strata are weighted with their pairs. The interval is Wilson's for as many answers as a simple sample would need for the
same weights (Kish's effective size), rounded down. Strata without an answer count as wrong in the lower bound and as
right in the upper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dataset.label.answers import RIGHT, WRONG
from dataset.label.pairs import EDGES, SIZES, Stratum
from dataset.tags.wilson import wilson


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


@dataclass(frozen=True, slots=True)
class StratumPrecision:
    """Of the pairs of a bin of the cosine and a class of group sizes, by their lower edges."""

    cosine: float
    size: int
    pairs: int
    answers: int
    wrong: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Precision by threshold and by stratum, and the lowest threshold with the precision that was wanted."""

    table: tuple[Precision, ...]
    strata: tuple[StratumPrecision, ...]
    wanted: float
    threshold: float | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return asdict(self)


def tally(strata: Mapping[int, Stratum], given: Mapping[int, str]) -> dict[Stratum, tuple[int, int]]:
    """Return the answers of each stratum that has any, and how many are right; `strata` are those of the members."""
    found: dict[Stratum, tuple[int, int]] = {}
    for member, answer in given.items():
        if answer in (*RIGHT, *WRONG):
            answers, right = found.get(strata[member], (0, 0))
            found[strata[member]] = answers + 1, right + (answer in RIGHT)
    return found


def measure(
    counts: Mapping[Stratum, int], tallies: Mapping[Stratum, tuple[int, int]], at: float, wanted: float
) -> Measured:
    """Return the precision of a search at `at`; `counts` are all pairs by stratum."""
    table = tuple(precision_table(counts, tallies, at))
    strata = []
    for (place, size), pairs in sorted(counts.items()):
        answers, right = tallies.get((place, size), (0, 0))
        strata.append(
            StratumPrecision(EDGES[place], SIZES[size], pairs, answers, answers - right, *wilson(right, answers))
        )
    return Measured(table, tuple(strata), wanted, pick(table, wanted))


def precision_table(
    counts: Mapping[Stratum, int], tallies: Mapping[Stratum, tuple[int, int]], at: float
) -> list[Precision]:
    """Return precision at the threshold of the search and at each edge above it."""
    lowest = max([place for place, edge in enumerate(EDGES) if edge <= at + 1e-9], default=0)
    return [
        _above({one: count for one, count in counts.items() if one[0] >= place}, tallies, max(at, EDGES[place]))
        for place in range(lowest, len(EDGES))
    ]


def pick(table: Sequence[Precision], wanted: float) -> float | None:
    """Return the lowest threshold whose lower bound reaches the wanted precision; None if there is none."""
    return next((one.at for one in table if one.pairs and one.low >= wanted), None)


def _above(counts: Mapping[Stratum, int], tallies: Mapping[Stratum, tuple[int, int]], at: float) -> Precision:
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
