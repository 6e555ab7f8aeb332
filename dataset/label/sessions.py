"""Who is shown which picture next: decisions only, the caller passes in the time.

A picture waits for `wanted` answers, each by another annotator; one that somebody looks at now counts as answered. An
annotator who adjudicates gets the pictures whose answers differ. A skipped picture comes again after all others.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dataset.label.labels import Labels

HOLD = timedelta(minutes=10)
"""After this time without an action, a picture is shown to others too."""
PAUSE = timedelta(minutes=5)
"""A gap between answers that counts as a break."""


@dataclass(frozen=True, slots=True)
class LabelItem:
    """A drawn picture."""

    id: int
    group: int
    hash: int
    sha256: str | None
    wanted: int
    """Answers by different annotators."""


@dataclass(frozen=True, slots=True)
class Who:
    """An annotator by pseudonym; with `adjudicates` in the other role."""

    annotator: str
    adjudicates: bool = False


@dataclass(slots=True)
class _Session:
    shown: int | None = None
    since: datetime | None = None
    again: list[int] = field(default_factory=list)
    """Shown first: pictures whose answer was taken back."""
    skipped: list[int] = field(default_factory=list)


class Sessions:
    """The annotators who are at work, over the pictures in the order in which they are shown."""

    def __init__(self, items: Sequence[LabelItem], labels: Labels) -> None:
        self.items = {one.id: one for one in items}
        self._labels = labels
        self._sessions: dict[Who, _Session] = {}
        self._lost: set[int] = set()
        self._hidden: tuple[int, frozenset[int]] = 0, frozenset()

    def shown(self, who: Who, now: datetime) -> int | None:
        """Return the picture that somebody sees: the one before, as long as it waits, or the next; None at the end."""
        session = self._sessions.setdefault(who, _Session())
        if session.shown is None or not self._waits(session.shown, who, now):
            (session.shown, *_) = [*self.following(who, now, 1), None]
        session.since = now
        return session.shown

    def following(self, who: Who, now: datetime, count: int) -> list[int]:
        """Return the pictures that somebody will be shown after the present one."""
        session = self._sessions.setdefault(who, _Session())
        found: list[int] = []
        late = set(session.skipped)
        order = [*session.again, *(one for one in self.items if one not in late), *session.skipped]
        for item in order:
            if len(found) == count:
                break
            if item != session.shown and item not in found and self._waits(item, who, now):
                found.append(item)
        return found

    def answered(self, who: Who) -> None:
        """Go on after an answer or a report."""
        session = self._sessions[who]
        if session.shown in session.again:
            session.again.remove(session.shown)
        session.shown = None

    def skip(self, who: Who) -> None:
        """Show the present picture again after all others."""
        session = self._sessions[who]
        assert session.shown is not None
        for some in (session.again, session.skipped):
            if session.shown in some:
                some.remove(session.shown)
        session.skipped.append(session.shown)
        session.shown = None

    def show_again(self, who: Who, item: int) -> None:
        """Show a picture next whose answer was taken back."""
        session = self._sessions.setdefault(who, _Session())
        session.again.insert(0, item)
        session.shown = item

    def lose(self, item: int) -> None:
        """Show a picture to nobody, because it cannot be read."""
        self._lost.add(item)

    @property
    def hidden(self) -> frozenset[int]:
        """The pictures that are shown to nobody, because one of their group was reported."""
        if self._hidden[0] != len(self._labels.reported):
            self._hidden = len(self._labels.reported), hidden_items([*self.items.values()], self._labels.reported)
        return self._hidden[1]

    def left(self, who: Who, now: datetime) -> int:
        """Return how many pictures wait for somebody, with the one that is shown."""
        return sum(self._waits(item, who, now) for item in self.items)

    def needs_break(self, who: Who, minutes: int, now: datetime) -> bool:
        """Return whether somebody has worked for so long without a pause."""
        times = self._labels.times(who.annotator)
        end = start = now
        for time in reversed(times):
            if start - time > PAUSE:
                break
            start = time
        return end - start >= timedelta(minutes=minutes)

    def _waits(self, item: int, who: Who, now: datetime) -> bool:
        known = self.items.get(item)
        if known is None or item in self._lost or item in self.hidden:
            return False
        if who.adjudicates:
            return self._labels.disputed(item, known.wanted) and not self._held(item, who, now)
        answers = self._labels.answers.get(item, {})
        return who.annotator not in answers and len(answers) + self._held(item, who, now) < known.wanted

    def _held(self, item: int, who: Who, now: datetime) -> int:
        """Return how many others in the same role look at a picture now."""
        return sum(
            session.shown == item and other.adjudicates == who.adjudicates and other != who
            and session.since is not None and now - session.since < HOLD
            for other, session in self._sessions.items()
        )  # fmt: skip


def hidden_items(items: Sequence[LabelItem], reported: Collection[int]) -> frozenset[int]:
    """Return the reported pictures, and those of their groups or with the same bytes."""
    if not reported:
        return frozenset()
    groups = {one.group for one in items if one.id in reported}
    digests = {one.sha256 for one in items if one.id in reported and one.sha256}
    return frozenset(one.id for one in items if one.group in groups or one.sha256 in digests) | frozenset(reported)
