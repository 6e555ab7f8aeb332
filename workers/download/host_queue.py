"""The order of a batch's links, with each host's links spread over the whole batch.

Invariant: no host has more than `per_host` links in progress, two links begun within `spacing_seconds`, or a link begun
while it rests. A slow host does not delay the links of others. Pure decisions: the caller passes in the time.

The k-th of a host's n links has the position (k + u) / n in the batch, where u in [0, 1) depends on the host's name, so
that hosts with few links do not all come first. After `max_failures` failures in a row a host is given up for this
batch, and its other links are returned.

With `slow_start` a host gets one link at a time until it has answered: twenty workers that do not know yet that a host
refuses send it 20 requests instead of 80. `hold_back` delays a host according to what other workers know about it.

Rejected: shuffling (links of a host still meet), and a semaphore per host (tasks pile up before the slowest host).
"""

import heapq
import math
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from dataset.candidates.urls import host_of


class Located(Protocol):
    """Anything with a URL."""

    @property
    def url(self) -> str: ...


LinkT = TypeVar("LinkT", bound=Located)


class HostQueue(Generic[LinkT]):
    """Hands out links; call `done` for each one taken. `now` is the time of any clock in seconds."""

    def __init__(
        self,
        links: Iterable[LinkT],
        per_host: int,
        *,
        spacing_seconds: float = 0.0,
        max_failures: int | None = None,
        slow_start: bool = False,
        hold_back: Callable[[str, float], float] | None = None,
    ) -> None:
        """`hold_back(host, now)` returns for how many seconds the host must not be contacted."""
        self._per_host = per_host
        self._spacing_seconds = spacing_seconds
        self._max_failures = max_failures
        self._slow_start = slow_start
        self._hold_back = hold_back
        self._works: set[str] = set()  # has answered since it last failed
        self._waiting: dict[str, deque[tuple[float, LinkT]]] = {}
        self._under_way: dict[str, int] = {}
        self._rests_until: dict[str, float] = {}
        self._failures: dict[str, int] = {}  # in a row
        by_host: dict[str, list[LinkT]] = {}
        for link in links:
            by_host.setdefault(host_of(link.url), []).append(link)
        for host, host_links in by_host.items():
            offset = zlib.crc32(host.encode("utf-8", "replace")) / 2**32
            places = ((k + offset) / len(host_links) for k in range(len(host_links)))
            self._waiting[host] = deque(zip(places, host_links, strict=True))
        self._left = sum(map(len, self._waiting.values()))  # kept up to date, because it is read after every link
        self._ready = [(waiting[0][0], host) for host, waiting in self._waiting.items()]
        heapq.heapify(self._ready)  # hosts with a waiting link and a free place; each is here or in _resting, once
        self._lined_up = set(self._waiting)
        self._resting: list[tuple[float, str]] = []
        self._rested_at: dict[str, float] = {}  # a host may have several entries in _resting; this one counts

    def __len__(self) -> int:
        """Return the number of links that are not taken."""
        return self._left

    def __contains__(self, host: str) -> bool:
        """Return whether a link of this host waits."""
        return host in self._waiting

    def take(self, now: float) -> LinkT | None:
        """Return the next link whose host may be contacted now; None if no host may be, or no link is left."""
        while self._resting and self._resting[0][0] <= now:
            until, host = heapq.heappop(self._resting)
            if self._rested_at.get(host) == until:
                self.wake(host)
        while self._ready:
            _, host = heapq.heappop(self._ready)
            self._lined_up.discard(host)
            if host not in self._waiting or self._is_full(host):
                continue  # the host was given up, or slowed down by a refusal, after it was lined up
            until = self._rests_until.get(host, -math.inf)
            if until <= now and self._hold_back is not None:
                until = now + self._hold_back(host, now)
            if until > now:
                heapq.heappush(self._resting, (until, host))
                self._rested_at[host] = until
                continue
            return self._begin(host, now)
        return None

    def hosts(self) -> list[str]:
        """Return the hosts of the links that are not taken."""
        return list(self._waiting)

    def wake(self, host: str) -> None:
        """Consider a resting host again, because its rest may have ended early."""
        if self._rested_at.pop(host, None) is not None:
            self._line_up(host)

    def seconds_to_wait(self, now: float) -> float:
        """Return the seconds until the first rest ends; infinity if no host rests."""
        return max(0.0, self._resting[0][0] - now) if self._resting else math.inf

    def done(self, link: LinkT) -> None:
        """End a link that was taken, so that its host may get another one."""
        host = host_of(link.url)
        self._under_way[host] -= 1
        if not self._under_way[host]:
            del self._under_way[host]
        self._line_up(host)

    def rest(self, link: LinkT, until: float) -> None:
        """Begin no link of this link's host before `until`."""
        host = host_of(link.url)
        self._rests_until[host] = max(until, self._rests_until.get(host, until))

    def answered(self, link: LinkT) -> None:
        """Record that the link's host works."""
        host = host_of(link.url)
        self._failures.pop(host, None)
        self._works.add(host)

    def failed(self, link: LinkT) -> Sequence[LinkT]:
        """Record a failure of the link's host; after `max_failures` in a row remove and return its waiting links."""
        host = host_of(link.url)
        self._failures[host] = self._failures.get(host, 0) + 1
        self._works.discard(host)
        if self._max_failures is None or self._failures[host] < self._max_failures:
            return ()
        return self.give_up(host)

    def give_up(self, host: str) -> Sequence[LinkT]:
        """Remove and return a host's waiting links."""
        left = [link for _, link in self._waiting.pop(host, ())]
        self._left -= len(left)
        return left

    def _begin(self, host: str, now: float) -> LinkT:
        waiting = self._waiting[host]
        _, link = waiting.popleft()
        self._left -= 1
        self._under_way[host] = self._under_way.get(host, 0) + 1
        if self._spacing_seconds:
            self._rests_until[host] = now + self._spacing_seconds
        if not waiting:
            del self._waiting[host]
        self._line_up(host)
        return link

    def _is_full(self, host: str) -> bool:
        limit = self._per_host if host in self._works or not self._slow_start else 1
        return self._under_way.get(host, 0) >= limit

    def _line_up(self, host: str) -> None:
        """Line a host up if it has a waiting link and a free place, and is neither lined up nor resting."""
        if (
            host in self._waiting
            and host not in self._lined_up
            and host not in self._rested_at
            and not self._is_full(host)
        ):
            self._lined_up.add(host)
            heapq.heappush(self._ready, (self._waiting[host][0][0], host))
