"""The workers of the chaos run: as many of each kind as it should be, whatever happens to them."""

import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import kill
from pathlib import Path

from tests.chaos.nursery import Nursery


@dataclass(frozen=True, slots=True)
class Place:
    """One that is filled again whenever its process has ended; `name` names its log."""

    name: str
    program: str
    arguments: tuple[str, ...]


@dataclass(slots=True)
class ChaosSwarm:
    nursery: Nursery
    logs: Path
    places: Sequence[Place]
    living: dict[int, Place] = field(default_factory=dict)
    """By process id."""
    endings: Counter[str] = field(default_factory=Counter)
    """How they ended: `download 0`, `filter SIGKILL`."""

    def fill(self) -> None:
        """Note who has ended, and start another in each one's place."""
        self.note_ended()
        for place in self.places:
            if place not in self.living.values():
                pid = self.nursery.start(place.program, place.arguments, self.logs / f"{place.name}.log")
                self.living[pid] = place

    def note_ended(self) -> None:
        for pid, code in self.nursery.ended().items():
            place = self.living.pop(pid)
            how = signal.Signals(-code).name if code < 0 else str(code)
            self.endings[f"{place.name.split('-')[0]} {how}"] += 1

    def signal(self, pid: int, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            kill(pid, number)
