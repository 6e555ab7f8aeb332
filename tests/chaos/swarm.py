"""The workers of the chaos run: a fixed number of each kind, replaced when they end."""

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
    """One worker that is replaced whenever its process has ended; `name` is the name of its log."""

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
        """Start a new process for each one that has ended."""
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
