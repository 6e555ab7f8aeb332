"""The order of a batch's links: each host's spread over the whole batch, never too many of one at once, none too soon.

Invariant: no host has more than `per_host` links under way, nor two begun within `spacing_seconds`, nor one begun while
it rests; whatever host is slow, links of the others go on. It says which link is next; time is told to it.

Each host's k-th of n links has the place (k + u) / n in the batch, u between 0 and 1 by the host's name, so that the
hosts with few links do not all come at once. A host that has failed `max_failures` times in a row is given up for this
batch: its other links are handed back, to be tried in another one.

With `slow_start` a host gets one link until it has answered one: twenty workers that do not know yet that a host
refuses them send it twenty requests, not eighty. A gate can hold a host back by what others know of it.

Rejected: shuffling (a host's links still meet), and a semaphore for each host (tasks pile up before the slowest one).
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
    """Hands out links; each one taken must be given back by `done`. `now` is any clock's, in seconds."""

    def __init__(
        self,
        links: Iterable[LinkT],
        per_host: int,
        *,
        spacing_seconds: float = 0.0,
        max_failures: int | None = None,
        slow_start: bool = False,
        gate: Callable[[str, float], float] | None = None,
    ) -> None:
        """`gate` gets a host and the time, and says how many seconds the host is not to be asked."""
        self._per_host = per_host
        self._spacing_seconds = spacing_seconds
        self._max_failures = max_failures
        self._slow_start = slow_start
        self._gate = gate
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
        self._left = sum(map(len, self._waiting.values()))  # counted along: it is asked after every link
        self._ready = [(waiting[0][0], host) for host, waiting in self._waiting.items()]
        heapq.heapify(self._ready)  # hosts that have a link waiting and a slot free: here or among the resting, once
        self._lined_up = set(self._waiting)
        self._resting: list[tuple[float, str]] = []
        self._rested_at: dict[str, float] = {}  # of a host's entries there, the one that counts

    def __len__(self) -> int:
        """Count the links that nobody has taken."""
        return self._left

    def __contains__(self, host: str) -> bool:
        """Say whether a link of a host waits."""
        return host in self._waiting

    def take(self, now: float) -> LinkT | None:
        """Return the next link of a host with a free slot; None when there is none now, or none at all."""
        while self._resting and self._resting[0][0] <= now:
            until, host = heapq.heappop(self._resting)
            if self._rested_at.get(host) == until:
                self.wake(host)
        while self._ready:
            _, host = heapq.heappop(self._ready)
            self._lined_up.discard(host)
            if host not in self._waiting or self._is_full(host):
                continue  # given up meanwhile, or refused while another was under way
            until = self._rests_until.get(host, -math.inf)
            if until <= now and self._gate is not None:
                until = now + self._gate(host, now)
            if until > now:
                heapq.heappush(self._resting, (until, host))
                self._rested_at[host] = until
                continue
            return self._begin(host, now)
        return None

    def hosts(self) -> list[str]:
        """Return the hosts of the links that nobody has taken."""
        return list(self._waiting)

    def wake(self, host: str) -> None:
        """Look at a resting host again: its rest may have ended early."""
        if self._rested_at.pop(host, None) is not None:
            self._line_up(host)

    def seconds_to_wait(self, now: float) -> float:
        """Return when the first host has rested; infinity when none rests."""
        return max(0.0, self._resting[0][0] - now) if self._resting else math.inf

    def done(self, link: LinkT) -> None:
        """Free the slot that a link has held."""
        host = host_of(link.url)
        self._under_way[host] -= 1
        if not self._under_way[host]:
            del self._under_way[host]
        self._line_up(host)

    def rest(self, link: LinkT, until: float) -> None:
        """Begin no link of this one's host before `until`."""
        host = host_of(link.url)
        self._rests_until[host] = max(until, self._rests_until.get(host, until))

    def answered(self, link: LinkT) -> None:
        """Note that a link's host works."""
        host = host_of(link.url)
        self._failures.pop(host, None)
        self._works.add(host)

    def failed(self, link: LinkT) -> Sequence[LinkT]:
        """Note that a link's host does not; return its waiting links, taken out, when that was once too often."""
        host = host_of(link.url)
        self._failures[host] = self._failures.get(host, 0) + 1
        self._works.discard(host)
        if self._max_failures is None or self._failures[host] < self._max_failures:
            return ()
        return self.give_up(host)

    def give_up(self, host: str) -> Sequence[LinkT]:
        """Take out and return a host's waiting links."""
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
        """Line a host up if a link of it waits, it has a slot free, and it is neither lined up nor resting."""
        if (
            host in self._waiting
            and host not in self._lined_up
            and host not in self._rested_at
            and not self._is_full(host)
        ):
            self._lined_up.add(host)
            heapq.heappush(self._ready, (self._waiting[host][0][0], host))
