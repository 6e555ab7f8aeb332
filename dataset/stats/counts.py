"""Counts: everything that the statistics of some rows need, exact and mergeable.

Integers and floats are counted per value in fixed arrays, so quantiles by nearest rank, shares and histograms come from
the counts. A float is counted at the nearest step of its column (1e-4 of a similarity); as rounding keeps order, the
quantile of rounded values is the rounded quantile. Thresholds on tags (unsafe > 0.5) are counted on stored values.

`a + b` is associative and commutative and equals counting all rows in one pass, except `frequent` once it drops values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dataset.stats.frequent import Frequent
from dataset.stats.hyperloglog import Registers, empty_registers

IntArray = npt.NDArray[np.int64]

MAX_VALUE = 65_535
"""Largest size in pixels or length of a text; larger values count as this one."""


@dataclass(frozen=True, slots=True)
class FloatColumn:
    """How a float column is counted: from `low` to `high`, with `steps` per unit; values outside count at the ends."""

    low: float
    high: float
    steps: int

    @property
    def bins(self) -> int:
        return round((self.high - self.low) * self.steps) + 1

    @property
    def digits(self) -> int:
        """Number of decimals of a step."""
        return len(str(self.steps)) - 1


FLOATS = {
    "similarity": FloatColumn(-1, 1, 10_000),
    "pwatermark": FloatColumn(0, 1, 10_000),
    "punsafe": FloatColumn(0, 1, 10_000),
    "aesthetic": FloatColumn(0, 10, 1_000),
}
INTEGERS = ("width", "height", "shorter", "longer", "characters", "text_bytes")
"""`shorter` and `longer` are a picture's sides: both sides ≥ 256 is shorter ≥ 256, either is longer ≥ 256."""

THRESHOLDS = {"punsafe": 0.5, "pwatermark": 0.8}
"""Values above which LAION-5B's announcement calls a picture unsafe, or watermarked."""

COLUMNS = ("URL", "TEXT", "WIDTH", "HEIGHT", "LANGUAGE", "similarity", "pwatermark", "punsafe", "aesthetic", "sha256")
DISTINCT = ("URL", "TEXT", "host", "sha256")
FREQUENT = ("TEXT", "host")

ASPECT_EDGES = (1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 5, 1, 5 / 4, 4 / 3, 3 / 2, 2, 3)
"""Edges of the buckets of width / height; a bucket includes its lower edge."""
GRID_SIDE = 64
"""Quarter octaves of width and of height: 2^(n/4) ≤ side < 2^((n+1)/4)."""
LANGUAGE_BINS = 201
"""Bins of similarity per language, each 0.01 wide."""

ARRAYS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(INTEGERS, (MAX_VALUE + 1,)),
    **{name: (column.bins,) for name, column in FLOATS.items()},
    "above": (len(THRESHOLDS),),
    "text_sums": (2,),  # characters, bytes
    "aspect": (len(ASPECT_EDGES) + 1,),
    "size_grid": (GRID_SIDE, GRID_SIDE),  # [width, height]
    "columns": (len(COLUMNS), 3),  # rows of files that have the column, nulls, NaNs
}
"""The count arrays with their shapes, all int64."""


@dataclass(slots=True)
class LanguageCounts:
    """Rows of one language; `similarity` (201,) int64 by 0.01, `similarity_sum` in steps of 1e-4."""

    rows: int = 0
    similarity_sum: int = 0
    similarity: IntArray = field(default_factory=lambda: np.zeros(LANGUAGE_BINS, np.int64))

    def add(self, other: "LanguageCounts") -> None:
        self.rows += other.rows
        self.similarity_sum += other.similarity_sum
        self.similarity += other.similarity

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LanguageCounts)
            and (self.rows, self.similarity_sum) == (other.rows, other.similarity_sum)
            and np.array_equal(self.similarity, other.similarity)
        )


@dataclass(slots=True)
class Counts:
    """The counts of some rows."""

    rows: int = 0
    arrays: Mapping[str, IntArray] = field(
        default_factory=lambda: {name: np.zeros(shape, np.int64) for name, shape in ARRAYS.items()}
    )
    languages: dict[str, LanguageCounts] = field(default_factory=dict)
    """'' counts rows whose language is not known with confidence."""
    distinct: Mapping[str, Registers] = field(default_factory=lambda: {name: empty_registers() for name in DISTINCT})
    frequent: dict[str, Frequent] = field(default_factory=lambda: {name: Frequent() for name in FREQUENT})

    def add(self, other: "Counts") -> None:
        """Merge other counts into these."""
        self.rows += other.rows
        for name, array in self.arrays.items():
            array += other.arrays[name]
        for language, counts in other.languages.items():
            self.languages.setdefault(language, LanguageCounts()).add(counts)
        for name, registers in self.distinct.items():
            np.maximum(registers, other.distinct[name], out=registers)
        for name, frequent in other.frequent.items():
            self.frequent[name] = self.frequent[name] + frequent

    def __add__(self, other: "Counts") -> "Counts":
        merged = Counts()
        merged.add(self)
        merged.add(other)
        return merged

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Counts)
            and (self.rows, self.languages, self.frequent) == (other.rows, other.languages, other.frequent)
            and all(np.array_equal(self.arrays[name], other.arrays[name]) for name in ARRAYS)
            and all(np.array_equal(self.distinct[name], other.distinct[name]) for name in DISTINCT)
        )
