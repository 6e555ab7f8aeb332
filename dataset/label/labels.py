"""The answers about single pictures: who said what about which, reports, and what follows from them.

Each line of the file after its header is an answer ({item, annotator, answer, time, guideline, adjudicates}), the same
with the answer null to take one back, or a report ({item, annotator, reported}). A reported picture is never shown
again; a report cannot be taken back here, but an operator can refuse it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dataset.label.journal import Journal

NAME = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of one person."""

    label: str
    annotator: str
    time: datetime
    guideline: str
    """The version of the guideline at that time."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The label of a picture, and the answers on which it is based."""

    label: str
    answers: tuple[Answer, ...]


class Labels:
    """The answers about the pictures of a draw; one process at a time writes them."""

    def __init__(
        self, folder: Path, header: Mapping[str, Any], classes: Sequence[str], *, writable: bool = True
    ) -> None:
        """Open the file in a working folder, or create it; unless `writable`, it is only read.

        Raises: LabelError when another process has it open, it is damaged, or it has answers of another draw.
        """
        self.answers: dict[int, dict[str, Answer]] = {}
        """By picture and annotator, in the order in which they were given."""
        self.adjudications: dict[int, Answer] = {}
        self.reported: dict[int, str | None] = {}
        """Reported pictures, each with its takedown request; None if the request is not filed yet."""
        self._classes = frozenset(classes)
        self._given: dict[str, list[tuple[int, bool]]] = {}
        self._journal = Journal(folder / NAME, header, remedy="give another --work", writable=writable)
        try:
            for line in self._journal.lines:
                self._note(line)
        except (ValueError, KeyError, TypeError) as error:
            raise self._journal.damaged(error) from error

    def add(self, item: int, answer: Answer, *, adjudicates: bool = False) -> None:
        """Append an answer, or the decision of someone who adjudicates."""
        self._append(
            {
                "item": item,
                "annotator": answer.annotator,
                "answer": answer.label,
                "time": answer.time.isoformat(timespec="milliseconds"),
                "guideline": answer.guideline,
                "adjudicates": adjudicates,
            }
        )

    def undo(self, annotator: str, *, adjudicates: bool = False) -> int | None:
        """Take back the last answer of an annotator, and return its picture; None if there is none."""
        mine = [item for item, decided in self._given.get(annotator, ()) if decided == adjudicates]
        mine = [item for item in mine if item not in self.reported]
        if not mine:
            return None
        self._append({"item": mine[-1], "annotator": annotator, "answer": None, "adjudicates": adjudicates})
        return mine[-1]

    def report(self, item: int, annotator: str, request: str | None) -> None:
        """Record that a picture was reported: before its takedown request is filed (None), and after."""
        self._append({"item": item, "annotator": annotator, "reported": request})

    def times(self, annotator: str) -> list[datetime]:
        """Return when an annotator gave the answers that still stand, in their order."""
        found = []
        for item, decided in self._given.get(annotator, ()):
            answer = self.adjudications[item] if decided else self.answers[item][annotator]
            found.append(answer.time)
        return found

    def disputed(self, item: int, wanted: int) -> bool:
        """Return whether a picture has all answers, they differ, and nobody has decided."""
        answers = self.answers.get(item, {})
        differ = len({one.label for one in answers.values()}) > 1
        return differ and len(answers) >= wanted and item not in self.adjudications

    def decision(self, item: int, wanted: int) -> Decision | None:
        """Return the label of a picture: by adjudication, or by `wanted` answers that agree; None without one."""
        if item in self.reported:
            return None
        if (decided := self.adjudications.get(item)) is not None:
            return Decision(decided.label, (decided,))
        answers = tuple(self.answers.get(item, {}).values())
        if len(answers) < wanted or len({one.label for one in answers}) != 1:
            return None
        return Decision(answers[0].label, answers)

    def rated(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Yield the pictures that have an answer, with their labels by annotator."""
        for item, answers in self.answers.items():
            if answers:
                yield item, {who: one.label for who, one in answers.items()}

    def close(self) -> None:
        """Let another process write."""
        self._journal.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._journal.append(line)
        self._note(line)

    def _note(self, line: Mapping[str, Any]) -> None:
        item, annotator = int(line["item"]), str(line["annotator"])
        if "reported" in line:
            self.reported[item] = line["reported"]
            return
        label, adjudicates = line["answer"], bool(line["adjudicates"])
        given = self._given.setdefault(annotator, [])
        if (item, adjudicates) in given:
            given.remove((item, adjudicates))
        self.adjudications.pop(item, None) if adjudicates else self.answers.setdefault(item, {}).pop(annotator, None)
        if label is None:
            return
        if label not in self._classes:
            raise ValueError(f"unknown class {label!r}")
        answer = Answer(label, annotator, datetime.fromisoformat(line["time"]), str(line["guideline"]))
        if adjudicates:
            self.adjudications[item] = answer
        else:
            self.answers[item][annotator] = answer
        given.append((item, adjudicates))
