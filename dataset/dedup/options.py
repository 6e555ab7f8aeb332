"""What a search for near-duplicates was asked for; it determines the bytes of the result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dataset.dedup.errors import DedupError
from dataset.dedup.quality import DEFAULT_ORDER, check_order

MIN_THRESHOLD, MAX_THRESHOLD = 0.8, 0.999
GREY_THRESHOLD = 0.90
"""With --with-pdq, pairs down to this cosine are members if their pictures' PDQ hashes agree; for CLIP's ViTs."""
GREY_PDQ_DISTANCE = 60
"""Bits of 256. Of 179,700 pairs of different photographs none came closer than 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a search. `super_cells` and `cells` 0: by the number of rows."""

    model: str
    """The folder below embeddings/."""
    at: float
    """Cosine that a member has to its representative, at least."""
    careful: bool = False
    with_pdq: bool = False
    pdq_from: float = GREY_THRESHOLD
    """The lowest cosine of a pair whose hashes agree; models differ in the cosines of different pictures."""
    quality: tuple[str, ...] = DEFAULT_ORDER
    super_cells: int = 0
    cells: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises: DedupError.
        """
        if not MIN_THRESHOLD <= self.at <= MAX_THRESHOLD:
            raise DedupError(
                f"--at {self.at} is out of range: give a cosine from {MIN_THRESHOLD} to {MAX_THRESHOLD}, such as 0.94."
            )
        if not MIN_THRESHOLD <= self.pdq_from <= MAX_THRESHOLD:
            raise DedupError(
                f"--pdq-from {self.pdq_from} is out of range: give a cosine from {MIN_THRESHOLD} to {MAX_THRESHOLD}."
            )
        check_order(self.quality)

    @property
    def candidates_from(self) -> float:
        """The lowest cosine at which a pair can be one of near-duplicates."""
        return min(self.at, self.pdq_from) if self.with_pdq else self.at

    @property
    def gap(self) -> float:
        """Visit each cell whose squared distance exceeds the nearest cell's by no more than this.

        Measured on planted groups (bench_dedup): 0.06 finds .9994 of what is removable at .94, 0.09 finds .9994 at .90
        and .9999 at .94.
        """
        return 0.06 + 0.75 * max(0.0, 0.94 - self.candidates_from) + (0.03 if self.careful else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON's types."""
        return {**asdict(self), "quality": list(self.quality)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Options":
        """Read options.

        Raises: DedupError when they are not such options.
        """
        try:
            return cls(**{**data, "quality": tuple(data["quality"])})
        except (KeyError, TypeError) as error:
            raise DedupError(f"The options of a dedup job are damaged ({error}): seed it again.") from error
