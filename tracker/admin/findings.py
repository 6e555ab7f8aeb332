"""What `tracker doctor` finds: one sentence, how bad it is, and the remedy."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    GOOD = "good"
    WARNING = "warning"  # costs speed, or will be bad later
    BAD = "bad"  # can lose work, or lets a worker do what it must not


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    level: Level
    said: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)
