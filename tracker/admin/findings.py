"""A finding of `tracker doctor`: a sentence, a level and a remedy."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    GOOD = "good"
    WARNING = "warning"  # costs speed, or becomes bad later
    BAD = "bad"  # can lose work, or lets a worker do something forbidden


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    level: Level
    said: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)
