"""How a batch behaves towards hosts: the order of its links, and what each answer teaches about its host.

It decides and does nothing: time and answers are told to it, what is to become of links that will not be asked is
returned. Of the answers of a host,

- 429 and 503 are refusals: the whole fleet lets the host rest, and its links are kept for later without using up a try;
- 403 says mostly something about a link (a bucket answers so for every missing object), so only `host_failures` of them
  in a row are a refusal;
- what only this machine may have met (DNS, connections, silence) is never told to the rests: after `host_failures` in a
  row the host is given up for this batch, and its links wait for another try. A broken network must not stop the rests.

A host that goes on refusing for `GIVE_UP_RESTS` rests is given up in the same way, so that its links end some day.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from dataset.candidates.urls import host_of
from dataset.pictures.outcomes import Outcome
from workers.download.host_queue import HostQueue, LinkT
from workers.download.host_rests import HostRests
from workers.fetching.fetch import Failure, Fetched
from workers.fetching.policy import FetchPolicy

HOST_FAULTS = frozenset(
    {
        Outcome.DNS_ERROR,
        Outcome.CONNECT_ERROR,
        Outcome.TLS_ERROR,
        Outcome.TIMEOUT,
        Outcome.RATE_LIMITED,
        Outcome.SERVER_ERROR,
    }
)
"""What says that a host does not want or cannot have more requests; any other answer shows that it works."""

REFUSALS = frozenset({403, 429, 503})

GIVE_UP_RESTS = 12
"""1, 2, 4 … 32 minutes and six hours: a host that has refused for so long will not have its links taken."""

LATE_SECONDS = 60.0
"""Links come back within a minute after their host's rest, not all at its end."""


@dataclass(frozen=True, slots=True)
class SkippedLink(Generic[LinkT]):
    """A link that is not asked in this batch: kept for `later_seconds`, or ended by a failure."""

    link: LinkT
    later_seconds: float | None
    failure: Failure | None = None


class Politeness(Generic[LinkT]):
    """Of one batch. Without a fleet the worker learns from its own answers only."""

    def __init__(self, links: Iterable[LinkT], policy: FetchPolicy, rests: HostRests | None = None) -> None:
        self._policy = policy
        self._rests = rests
        self.queue: HostQueue[LinkT] = HostQueue(
            links,
            policy.per_host,
            spacing_seconds=policy.host_spacing_seconds,
            max_failures=policy.host_failures,
            slow_start=rests is not None,
            gate=rests.seconds_to_wait if rests is not None else None,
        )
        self._forbidden: dict[str, int] = {}  # in a row
        self.asked: set[str] = set()
        """Hosts that have answered, or should have."""
        self.refused: set[str] = set()
        """Those that have refused one link at least."""

    def apply_news(self, hosts: Iterable[str] | None, now: float) -> list[SkippedLink[LinkT]]:
        """Go through hosts of which there is news (None: all); return the links that will not be asked."""
        if self._rests is None:
            return []
        skipped: list[SkippedLink[LinkT]] = []
        for host in self.queue.hosts() if hosts is None else hosts:
            if host not in self.queue:
                continue
            if self._rests.blocks.covers_host(host):
                skipped += [SkippedLink(link, None, blocked()) for link in self.queue.give_up(host)]
            else:
                skipped += self._set_aside(host, now)
                self.queue.wake(host)
        return skipped

    def record_answer(self, link: LinkT, result: Fetched | Failure, now: float) -> list[SkippedLink[LinkT]]:
        """Hold what a link met against its host; return the links that will not be asked in this batch."""
        host = host_of(link.url)
        if result.final_url is None or (
            result.http_status is None and isinstance(result, Failure) and result.outcome not in HOST_FAULTS
        ):
            return []  # nobody was asked: a bad URL, a block, a rest
        last = host_of(result.final_url)
        if last != host and self._rests is not None:
            self._rests.record_answer(host)  # by a redirect
        self.asked.add(last)
        skipped = self._record_refusal(last, result, now)
        if isinstance(result, Fetched) or result.outcome not in HOST_FAULTS or _is_held_back(result):
            self.queue.answered(link)
        elif last == host:  # else another host's fault, to which this one has led
            skipped += self._record_fault(link, host, result, now)
        return skipped

    def _record_refusal(self, host: str, result: Fetched | Failure, now: float) -> list[SkippedLink[LinkT]]:
        if result.http_status in REFUSALS:
            self.refused.add(host)
        if self._rests is None:
            return []
        if result.http_status == 403:
            self._forbidden[host] = self._forbidden.get(host, 0) + 1
            is_refusal = self._forbidden[host] >= self._policy.host_failures or self._rests.is_probing(host)
        else:
            self._forbidden.pop(host, None)
            is_refusal = result.http_status in REFUSALS
        if isinstance(result, Failure) and (
            is_refusal or (self._rests.is_probing(host) and result.outcome in HOST_FAULTS)
        ):
            self._forbidden.pop(host, None)
            self._rests.record_refusal(host, now, self._policy.rest_seconds, result.retry_after_seconds)
            return self._set_aside(host, now)
        if result.http_status is not None and result.http_status != 403:
            self._rests.record_answer(host)
        return []

    def _record_fault(self, link: LinkT, host: str, result: Failure, now: float) -> list[SkippedLink[LinkT]]:
        left: Sequence[LinkT] = self.queue.failed(link)
        if result.retry_after_seconds is not None:
            if result.retry_after_seconds > self._policy.max_rest_seconds:
                left = [*left, *self.queue.give_up(host)]
            else:
                self.queue.rest(link, now + result.retry_after_seconds)
        return [SkippedLink(one, None, _not_asked(result.outcome)) for one in left]

    def _set_aside(self, host: str, now: float) -> list[SkippedLink[LinkT]]:
        """Take out a host's links if its rest is too long to wait for."""
        assert self._rests is not None
        seconds = self._rests.seconds_left(host, now)
        if seconds <= self._policy.max_rest_seconds:
            return []
        left = self.queue.give_up(host)
        if self._rests.refusals(host) >= GIVE_UP_RESTS:
            return [SkippedLink(link, None, _not_asked(Outcome.RATE_LIMITED)) for link in left]
        return [SkippedLink(link, seconds + random.uniform(0.0, LATE_SECONDS)) for link in left]  # noqa: S311


def _is_held_back(result: Failure) -> bool:
    """Say whether it was a redirect to a host that rests, which has not been asked."""
    return result.outcome == Outcome.RATE_LIMITED and result.http_status != 429


def blocked() -> Failure:
    """Make the end of a link that must not be contacted."""
    return _failure(Outcome.BLOCKED, "its host or URL is blocked", transient=False)


def _not_asked(outcome: Outcome) -> Failure:
    """Make the end of a link whose host was given up: its host's last fault, to be tried again in another batch."""
    return _failure(outcome, "not asked: its host kept failing", transient=True)


def _failure(outcome: Outcome, reason: str, *, transient: bool) -> Failure:
    return Failure(outcome, reason, transient, http_status=None, content_type=None, final_url=None, seconds=0.0)
