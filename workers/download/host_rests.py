"""What a download worker knows about hosts from the other workers, and what it must report to them.

A heartbeat carries the report to the tracker and the news back. Times are on the worker's own clock, computed from
seconds that the tracker sends, so the two clocks need not agree.

Invariant: nobody contacts a resting host. After the rest only the worker to which the tracker has granted the probe
contacts it, until that worker has reported the result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from tracker.protocol.blocklist import Blocklist
from tracker.protocol.session import DownloadBeat

MAX_TOLD = 100
"""Hosts per report, the worst first; the tracker accepts no more."""

ASK_AGAIN_SECONDS = 20.0
"""A request for a probe is repeated after this time, because the heartbeat may have been lost."""


@dataclass(slots=True)
class Rest:
    """A host's rest: its end, the refusals in a row before it, and whether this worker has the probe."""

    until: float
    refusals: int
    is_ours: bool = False
    wait_until: float = 0.0
    """No probe is requested before this time: an answer is expected, another worker probes, or this one does."""


@dataclass(slots=True)
class Report:
    """The content of a heartbeat; restored if the heartbeat fails."""

    refused: dict[str, tuple[int, float | None]]
    well: list[str]
    probes: list[str]

    def to_json(self) -> dict[str, Any]:
        return {"refused": {host: list(met) for host, met in self.refused.items()}, "well": self.well,
                "probes": self.probes}  # fmt: skip


class HostRests:
    """Used from one thread, by the batch and the heartbeat.

    `on_urgent` is called when the next heartbeat should not wait. `on_news` gets the hosts whose rest has changed, or
    None if the blocks have changed.
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
        """Use the tracker's settings, which a worker gets when it registers."""
        return cls(
            forget_seconds=float(settings["rest_forget_seconds"]), grace_seconds=float(settings["rest_grace_seconds"])
        )

    def seconds_to_wait(self, host: str, now: float) -> float:
        """Return for how many seconds the host must not be contacted; request its probe if its rest is over."""
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
        """Return how long a host still rests; 0 if only its probe is missing."""
        rest = self._rests.get(host)
        return max(0.0, rest.until - now) if rest else 0.0

    def refusals(self, host: str) -> int:
        """Return how many rests in a row a host has had."""
        rest = self._rests.get(host)
        return rest.refusals if rest else 0

    def record_refusal(self, host: str, now: float, seconds: float, wish: float | None) -> None:
        """Record a refusal for the next report: the host rests for `seconds`, or for `wish`, its Retry-After, if that
        is longer.
        """
        n, longest = self._refused.get(host, (0, None))
        self._refused[host] = (n + 1, _longer(longest, wish))
        self._well.discard(host)
        self._probes.discard(host)
        known = self._rests.get(host)
        until = now + max(seconds, wish or 0.0)
        if known is None or known.until <= now:
            self.on_urgent()
            self._rests[host] = Rest(until, known.refusals if known else 1)
        else:  # the refusal of a request that was sent before the rest began
            known.until = max(known.until, until)

    def record_answer(self, host: str) -> None:
        """Record that a host answered, with the file or with a final error."""
        if self.is_probing(host):
            del self._rests[host]
            self._well.add(host)
            self.on_urgent()

    def is_probing(self, host: str) -> bool:
        """Return whether this worker has the host's probe."""
        rest = self._rests.get(host)
        return rest is not None and rest.is_ours

    def take_report(self) -> Report:
        """Return the report for the next heartbeat, and count it as sent."""
        well, probes = sorted(self._well)[:MAX_TOLD], sorted(self._probes)[:MAX_TOLD]
        report = Report(self.take_refusals(), well, probes)
        self._well.difference_update(well)
        self._probes.difference_update(probes)
        return report

    def take_refusals(self) -> dict[str, tuple[int, float | None]]:
        """Return the worst unreported refusals, and count them as sent: the end of a batch carries them, too."""
        worst = sorted(self._refused, key=lambda host: -self._refused[host][0])[:MAX_TOLD]
        return {host: self._refused.pop(host) for host in worst}

    def restore_report(self, report: Report) -> None:
        """Report again what a failed heartbeat did not deliver."""
        for host, (n, wish) in report.refused.items():
            known, longest = self._refused.get(host, (0, None))
            self._refused[host] = (known + n, _longer(wish, longest))
        self._well.update(report.well)
        self._probes.update(report.probes)

    def apply_news(self, news: DownloadBeat, now: float) -> None:
        """Apply the answer to a heartbeat. Refusals that were recorded after it was sent are newer, and are kept."""
        self.since = news.since
        for host, (seconds, refusals) in (news.rests or {}).items():
            known = self._rests.get(host)
            if host in self._refused:
                continue
            if not refusals:
                self._rests.pop(host, None)
            elif known is None or known.refusals != refusals or now + seconds > known.until + 1.0:
                self._rests[host] = Rest(now + seconds, refusals)  # a second of difference is transit time
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
        """Apply changes to the list of blocks."""
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
