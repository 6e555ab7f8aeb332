"""Politeness of a batch towards hosts: the order of its links, and the consequences of each answer.

Pure decisions: the caller passes in the time and each answer, and gets back the links to skip.

- 429 and 503 are refusals. All workers let the host rest, and its links come back later without using up an attempt.
- 403 usually concerns only one link (object stores answer 403 for every missing object), so only `host_failures` of
  them in a row are a refusal.
- DNS errors, failed connections and timeouts may be this machine's fault, so other workers are not told: a broken
  network must not stop the swarm. After `host_failures` in a row the host is given up for this batch, and its links
  are retried later.

After `GIVE_UP_RESTS` rests in a row a host is given up in the same way, so that its links end eventually.
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
"""Outcomes that are the fault of the host; any other answer shows that the host works."""

REFUSALS = frozenset({403, 429, 503})

GIVE_UP_RESTS = 12
"""These are rests of 1, 2, 4 … 32 minutes and then six hours: a host that refuses for so long will probably never
answer.
"""

LATE_SECONDS = 60.0
"""Links come back spread over a minute after the rest of their host, not all at once."""


@dataclass(frozen=True, slots=True)
class SkippedLink(Generic[LinkT]):
    """A link that is not fetched in this batch: retried after `later_seconds`, or ended by `failure`."""

    link: LinkT
    later_seconds: float | None
    failure: Failure | None = None


class Politeness(Generic[LinkT]):
    """The decisions for one batch. Without `rests` only the batch's own answers count."""

    def __init__(self, links: Iterable[LinkT], policy: FetchPolicy, rests: HostRests | None = None) -> None:
        self._policy = policy
        self._rests = rests
        self.queue: HostQueue[LinkT] = HostQueue(
            links,
            policy.per_host,
            spacing_seconds=policy.host_spacing_seconds,
            max_failures=policy.host_failures,
            slow_start=rests is not None,
            hold_back=rests.seconds_to_wait if rests is not None else None,
        )
        self._forbidden: dict[str, int] = {}  # in a row
        self.asked: set[str] = set()
        """Hosts that were contacted."""
        self.refused: set[str] = set()
        """Hosts that refused at least one link."""

    def apply_news(self, hosts: Iterable[str] | None, now: float) -> list[SkippedLink[LinkT]]:
        """Apply news about these hosts (None: all); return the links to skip."""
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
        """Record the result of a link against its host; return the links to skip."""
        host = host_of(link.url)
        if result.final_url is None or (
            result.http_status is None and isinstance(result, Failure) and result.outcome not in HOST_FAULTS
        ):
            return []  # no host was contacted: a bad URL, a block, a rest
        last = host_of(result.final_url)
        if last != host and self._rests is not None:
            self._rests.record_answer(host)  # with a redirect
        self.asked.add(last)
        skipped = self._record_refusal(last, result, now)
        if isinstance(result, Fetched) or result.outcome not in HOST_FAULTS or _is_held_back(result):
            self.queue.answered(link)
        elif last == host:  # otherwise the host to which a redirect led has failed
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
        """Remove and return a host's links if its rest is too long to wait for."""
        assert self._rests is not None
        seconds = self._rests.seconds_left(host, now)
        if seconds <= self._policy.max_rest_seconds:
            return []
        left = self.queue.give_up(host)
        if self._rests.refusals(host) >= GIVE_UP_RESTS:
            return [SkippedLink(link, None, _not_asked(Outcome.RATE_LIMITED)) for link in left]
        return [SkippedLink(link, seconds + random.uniform(0.0, LATE_SECONDS)) for link in left]  # noqa: S311


def _is_held_back(result: Failure) -> bool:
    """Return whether the link was redirected to a resting host, which was not contacted."""
    return result.outcome == Outcome.RATE_LIMITED and result.http_status != 429


def blocked() -> Failure:
    """Return the failure of a link that must not be fetched."""
    return _failure(Outcome.BLOCKED, "its host or URL is blocked", transient=False)


def _not_asked(outcome: Outcome) -> Failure:
    """Return the failure of a link whose host was given up: the host's last fault, retried in another batch."""
    return _failure(outcome, "not asked: its host kept failing", transient=True)


def _failure(outcome: Outcome, reason: str, *, transient: bool) -> Failure:
    return Failure(outcome, reason, transient, http_status=None, content_type=None, final_url=None, seconds=0.0)
