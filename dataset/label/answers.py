"""The file of answers: JSON lines that are only appended to, each on the disk before it is acknowledged.

The first line is the draw: release, version, model, threshold, seed, and the pairs of each stratum. Each other line is
an answer, or null to take one back. A last line that was cut off is removed when the file is opened.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset import strict_json
from dataset.errors import DatasetError

CHOICES = ("same", "edited", "template", "different", "cannot tell")
RIGHT, WRONG = CHOICES[:2], CHOICES[2:4]


class LabelError(DatasetError):
    """Pairs cannot be labelled, or answers not be read."""


class Answers:
    """The answers of one draw, by member; one process at a time writes them."""

    def __init__(self, path: Path, draw: Mapping[str, Any]) -> None:
        """Open the file, or create it.

        Raises: LabelError when another process has it open, it is damaged, or it has answers of another draw.
        """
        self.given: dict[int, str] = {}
        self._order: list[int] = []
        try:
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise LabelError(f"Cannot open {path} ({error.strerror}): give another file with --answers.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise LabelError(f"Another process has {path} open: end it, or give another --answers.") from error
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
        lines = data[:whole].splitlines()
        if not lines:
            self._append(draw)
            return
        try:
            known, *given = [json.loads(line) for line in lines]
            for line in given:
                self._note(int(line["member"]), line["answer"])
        except (ValueError, KeyError, TypeError) as error:
            self.close()
            raise LabelError(f"{path} is damaged ({error}): restore it, or give another --answers.") from error
        if known != json.loads(strict_json.dumps(draw)):
            self.close()
            raise LabelError(f"{path} has answers of another release, version or draw: give another --answers.")

    def add(self, member: int, answer: str | None) -> None:
        """Append an answer; None takes back the one before."""
        self._append({"member": member, "answer": answer})
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
        self._file.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        line = strict_json.dumps(record).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise LabelError("The answer was not written whole: free some space on the disk, then start again.")
        os.fsync(self._file.fileno())

    def _note(self, member: int, answer: str | None) -> None:
        if answer is not None and answer not in CHOICES:
            raise ValueError(f"unknown answer {answer!r}")
        self.given.pop(member, None)
        if member in self._order:
            self._order.remove(member)
        if answer is not None:
            self.given[member] = answer
            self._order.append(member)
