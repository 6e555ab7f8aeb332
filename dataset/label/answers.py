"""The answers about pairs: what a person said about each, and the order, so that the last one can be taken back.

The file's header is the draw: release, version, model, threshold, seed, the number of pairs of each stratum, and the
drawn pairs with their strata. Each other line is an answer, or null to take one back, or what became of pictures that
were fetched again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataset.label.journal import Journal, LabelError
from dataset.label.pairs import Stratum

CHOICES = ("same", "edited", "template", "different", "cannot tell")
RIGHT, WRONG = CHOICES[:2], CHOICES[2:4]


@dataclass(frozen=True, slots=True)
class Refetched:
    """Pictures that were no longer kept, and what became of them when they were fetched from their URLs."""

    asked: int
    answered: int
    same: int
    """Answered with the bytes that the release was made from; only these are shown."""


@dataclass(frozen=True, slots=True)
class ReadAnswers:
    """A file of answers."""

    draw: Mapping[str, Any]
    counts: Mapping[Stratum, int]
    """All pairs of the release by stratum."""
    strata: Mapping[int, Stratum]
    """Of the pairs with an answer, by member."""
    given: Mapping[int, str]
    refetched: Refetched | None


def read_answers(path: Path) -> ReadAnswers:
    """Read a file of answers; a last line that was cut off is left out.

    Raises: LabelError when it cannot be read, or is damaged.
    """
    try:
        data = path.read_bytes()
        draw, *lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
        counts = {(int(place), int(size)): int(count) for place, size, count in draw["pairs"]}
        strata = {int(member): (int(place), int(size)) for member, _, place, size in draw["drawn"]}
        described = {name: draw[name] for name in ("release", "version", "model", "threshold")}
        said = {int(line["member"]): line["answer"] for line in lines if "member" in line}
        given = {member: answer for member, answer in said.items() if answer is not None}
        strata_of = {member: strata[member] for member in given}
        fetched = [Refetched(**line["refetched"]) for line in lines if "refetched" in line]
    except OSError as error:
        raise LabelError(f"Cannot read {path} ({error.strerror}): give the file of dataset dedup label.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{path} is not a file of answers, or is damaged ({error}): label again.") from error
    if not set(given.values()) <= set(CHOICES):
        raise LabelError(f"{path} has an unknown answer: label again.")
    return ReadAnswers(described, counts, strata_of, given, fetched[-1] if fetched else None)


class Answers:
    """The answers of one draw, by member; one process at a time writes them."""

    def __init__(self, path: Path, draw: Mapping[str, Any]) -> None:
        """Open the file, or create it.

        Raises: LabelError when another process has it open, it is damaged, or it has answers of another draw.
        """
        self.given: dict[int, str] = {}
        self._order: list[int] = []
        self._journal = Journal(path, draw, remedy="give another file with --answers")
        try:
            for line in self._journal.lines:
                if "refetched" not in line:
                    self._note(int(line["member"]), line["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._journal.damaged(error) from error

    def add(self, member: int, answer: str | None) -> None:
        """Append an answer; None takes back the one before."""
        self._journal.append({"member": member, "answer": answer})
        self._note(member, answer)

    def add_refetched(self, refetched: Refetched) -> None:
        """Append what became of pictures that were fetched again."""
        self._journal.append({"refetched": asdict(refetched)})

    def undo(self) -> int | None:
        """Take back the last answer, and return its member; None if there is none."""
        if not self._order:
            return None
        member = self._order[-1]
        self.add(member, None)
        return member

    def close(self) -> None:
        """Let another process write."""
        self._journal.close()

    def _note(self, member: int, answer: str | None) -> None:
        if answer is not None and answer not in CHOICES:
            raise ValueError(f"unknown answer {answer!r}")
        self.given.pop(member, None)
        if member in self._order:
            self._order.remove(member)
        if answer is not None:
            self.given[member] = answer
            self._order.append(member)
