"""The answers about pairs: what a person said about each, and the order, so that the last one can be taken back.

Each line of the file after its header is an answer, or null to take one back.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset.label.journal import Journal

CHOICES = ("same", "edited", "template", "different", "cannot tell")
RIGHT, WRONG = CHOICES[:2], CHOICES[2:4]


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
                self._note(int(line["member"]), line["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._journal.damaged(error) from error

    def add(self, member: int, answer: str | None) -> None:
        """Append an answer; None takes back the one before."""
        self._journal.append({"member": member, "answer": answer})
        self._note(member, answer)

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
