"""What a download worker knows of the web from the rest of the rests, and what it has to tell them.

A beat carries the report there and the news back; between two beats this is all that the worker goes by. Times are on
the worker's own clock, from the seconds that the tracker gives: the two clocks need not agree.

Invariant: a host that rests is asked by nobody; when its rest is over, by the one worker that the tracker has granted
the probe, until that has said how it went.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from tracker.protocol.blocklist import Blocklist
from tracker.protocol.session import News

MAX_TOLD = 100
"""Hosts in a report, the worst first; the tracker takes no more."""

ASK_AGAIN_SECONDS = 20.0
"""After a probe was asked for and no answer came: the beat may have been lost."""


@dataclass(slots=True)
class Rest:
    """A host's rest: until when, after how many refusals in a row, and whether this worker asks first."""

    until: float
    refusals: int
    is_ours: bool = False
    wait_until: float = 0.0
    """Until then no probe is asked for, because an answer is due or another worker goes first; or it is ours."""


@dataclass(slots=True)
class Report:
    """What a beat carries; given back when the beat fails."""

    refused: dict[str, tuple[int, float | None]]
    well: list[str]
    probes: list[str]

    def to_json(self) -> dict[str, Any]:
        return {"refused": {host: list(met) for host, met in self.refused.items()}, "well": self.well,
                "probes": self.probes}  # fmt: skip


class HostRests:
    """Used from one thread: by the batch and by the beat, which is told by `on_urgent` not to wait.

    `on_news` gets the hosts whose rest has begun, changed or ended; None when the blocks have changed.
    """

    def __init__(self, *, forget_seconds: float = 21_600.0, grace_seconds: float = 20.0) -> None:
        self.blocks = Blocklist()
        self.blocks_version = 0
        self.since: datetime | None = None
        self.on_urgent: Callable[[], None] = _nothing
        self.on_news: Callable[[Sequence[str] | None], None] | None = None
        self._forget_seconds = forget_seconds
        self._grace_seconds = grace_seconds
        self._rests: dict[str, Rest] = {}
        self._refused: dict[str, tuple[int, float | None]] = {}
        self._well: set[str] = set()
        self._probes: set[str] = set()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """By the tracker's settings, as a worker hears them when it registers."""
        return cls(
            forget_seconds=float(settings["rest_forget_seconds"]), grace_seconds=float(settings["rest_grace_seconds"])
        )

    def seconds_to_wait(self, host: str, now: float) -> float:
        """Return how long a host is not to be asked, 0 when it may be; asks for its probe when its rest is over."""
        rest = self._rests.get(host)
        if rest is None:
            return 0.0
        if rest.until > now:
            return rest.until - now
        if rest.until < now - self._forget_seconds:
            del self._rests[host]
            return 0.0
        if rest.wait_until > now:
            return 0.0 if rest.is_ours else rest.wait_until - now
        rest.is_ours = False
        rest.wait_until = now + ASK_AGAIN_SECONDS
        self._probes.add(host)
        self.on_urgent()
        return ASK_AGAIN_SECONDS

    def seconds_left(self, host: str, now: float) -> float:
        """Return how long a host still rests; 0 also when its probe is all that is missing."""
        rest = self._rests.get(host)
        return max(0.0, rest.until - now) if rest else 0.0

    def refusals(self, host: str) -> int:
        """Return how many rests in a row a host has been given."""
        rest = self._rests.get(host)
        return rest.refusals if rest else 0

    def record_refusal(self, host: str, now: float, seconds: float, wish: float | None) -> None:
        """Note that a host has refused us: nobody here asks it for `seconds` or its wish, and the rests is told."""
        n, longest = self._refused.get(host, (0, None))
        self._refused[host] = (n + 1, _longer(longest, wish))
        self._well.discard(host)
        self._probes.discard(host)
        known = self._rests.get(host)
        until = now + max(seconds, wish or 0.0)
        if known is None or known.until <= now:
            self.on_urgent()
            self._rests[host] = Rest(until, known.refusals if known else 1)
        else:  # one that was on its way when the rest began
            known.until = max(known.until, until)

    def record_answer(self, host: str) -> None:
        """Note that a host gave what was asked for, or said in earnest that it has not got it."""
        if self.is_probing(host):
            del self._rests[host]
            self._well.add(host)
            self.on_urgent()

    def is_probing(self, host: str) -> bool:
        """Say whether this worker is the one that asks a rested host first."""
        rest = self._rests.get(host)
        return rest is not None and rest.is_ours

    def take_report(self) -> Report:
        """Return what there is to tell, as told."""
        well, probes = sorted(self._well)[:MAX_TOLD], sorted(self._probes)[:MAX_TOLD]
        report = Report(self.take_refusals(), well, probes)
        self._well.difference_update(well)
        self._probes.difference_update(probes)
        return report

    def take_refusals(self) -> dict[str, tuple[int, float | None]]:
        """Return the worst refusals that no beat has told of, as told: for a batch's end, which goes out anyway."""
        worst = sorted(self._refused, key=lambda host: -self._refused[host][0])[:MAX_TOLD]
        return {host: self._refused.pop(host) for host in worst}

    def restore_report(self, report: Report) -> None:
        """Have a report to tell again, whose beat has failed."""
        for host, (n, wish) in report.refused.items():
            known, longest = self._refused.get(host, (0, None))
            self._refused[host] = (known + n, _longer(wish, longest))
        self._well.update(report.well)
        self._probes.update(report.probes)

    def apply_news(self, news: News, now: float) -> None:
        """Take in a beat's answer. What this worker was refused since the beat went out is newer than it."""
        self.since = news.since
        for host, (seconds, refusals) in (news.rests or {}).items():
            known = self._rests.get(host)
            if host in self._refused:
                continue
            if not refusals:
                self._rests.pop(host, None)
            elif known is None or known.refusals != refusals or now + seconds > known.until + 1.0:
                self._rests[host] = Rest(now + seconds, refusals)  # a second's difference is the way's
        for host, word in (news.probes or {}).items():
            rest = self._rests.get(host)
            if host in self._refused or rest is None:
                continue
            if word == "free":
                del self._rests[host]
            elif word == "probe":
                rest.is_ours, rest.wait_until = True, now + self._grace_seconds
            else:
                rest.wait_until = now + max(0.5, word)
        self._forget(now)
        if self.on_news is not None:
            self.on_news([*(news.rests or ()), *(news.probes or ())])

    def apply_blocks(self, version: int, blocked: Sequence[str], lifted: Sequence[str]) -> None:
        """Take in what is new in the list of blocks."""
        self.blocks.update(blocked, lifted)
        self.blocks_version = version
        if self.on_news is not None:
            self.on_news(None)

    def _forget(self, now: float) -> None:
        old = [host for host, rest in self._rests.items() if rest.until < now - self._forget_seconds]
        for host in old:
            del self._rests[host]


def _nothing(*_: object) -> None:
    pass


def _longer(one: float | None, other: float | None) -> float | None:
    return max((seconds for seconds in (one, other) if seconds is not None), default=None)
