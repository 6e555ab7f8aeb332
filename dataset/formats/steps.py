"""Work over a release in steps: the plan of a build, and the result of one of its units.

    [["train", 1], ["add", 12], ["merge", 8], ["finish", 1]]        a plan: steps in order, with their numbers of units

Invariant: the plan is fixed before the first unit runs. The units of a step are independent and idempotent: run in any
order, on any machine, once or twice, they write the same bytes under the same names. A step begins when every unit of
the steps before it is done; a step of 0 units is skipped.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dataset.formats.json_records import from_json, to_json


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a build; its units are numbered from 0 to units - 1."""

    name: str
    units: int


@dataclass(frozen=True, slots=True)
class UnitFile:
    """A file that a unit wrote and that stays after the build; `path` is in the release's folder."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a unit did. Files that a later step deletes are not among `files`."""

    rows_in: int
    rows_out: int
    files: tuple[UnitFile, ...] = ()

    def to_json(self) -> bytes:
        """Return the result as JSON; equal results give equal bytes."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> "UnitResult":
        """Read a result.

        Raises: ValueError when the text is not the JSON of a result; the message names the key.
        """
        return from_json(cls, data)


def plan_to_json(steps: Iterable[Step]) -> list[list[Any]]:
    """Return a plan as a list of [name, units], which is its form in a job's payload."""
    return [[step.name, step.units] for step in steps]


def plan_from_json(plan: Any) -> tuple[Step, ...]:
    """Read a plan.

    Raises: ValueError when it is not a list of different names with numbers of units.
    """
    steps = []
    for place, item in enumerate(plan if isinstance(plan, list) else [plan]):
        match item:
            case [str() as name, int() as units] if name and type(units) is int and units >= 0:
                steps.append(Step(name, units))
            case _:
                raise ValueError(f"step {place} is {item!r}, not a name and a number of units")
    if len({step.name for step in steps}) < len(steps):
        raise ValueError("two steps have the same name")
    return tuple(steps)
