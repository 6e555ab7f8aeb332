"""The order of a batch's links: each host's spread over the whole batch, and never too many of one at once.

Invariant: no host has more than `per_host` links under way; whatever host is slow, links of the others go on. Pure:
it says which link is next, and knows neither time nor network.

Each host's k-th of n links has the place (k + u) / n in the batch, u between 0 and 1 by the host's name, so that the
hosts with few links do not all come at once. Rejected: shuffling (a host's links still meet), and a semaphore for each
host (tasks pile up before the slowest one).
"""

import heapq
import zlib
from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit


class Located(Protocol):
    """Anything with a URL."""

    @property
    def url(self) -> str: ...


LinkT = TypeVar("LinkT", bound=Located)


class HostQueue(Generic[LinkT]):
    """Hands out links; each one taken must be given back by `done`."""

    def __init__(self, links: Iterable[LinkT], per_host: int) -> None:
        self._per_host = per_host
        self._waiting: dict[str, deque[tuple[float, LinkT]]] = {}
        self._under_way: dict[str, int] = {}
        by_host: dict[str, list[LinkT]] = {}
        for link in links:
            by_host.setdefault(host_of(link.url), []).append(link)
        for host, host_links in by_host.items():
            offset = zlib.crc32(host.encode("utf-8", "replace")) / 2**32
            places = ((k + offset) / len(host_links) for k in range(len(host_links)))
            self._waiting[host] = deque(zip(places, host_links, strict=True))
        self._ready = [(waiting[0][0], host) for host, waiting in self._waiting.items()]
        heapq.heapify(self._ready)  # hosts that have a link waiting and a slot free, each once

    def __len__(self) -> int:
        """Count the links that nobody has taken."""
        return sum(map(len, self._waiting.values()))

    def take(self) -> LinkT | None:
        """Return the next link of a host with a free slot; None when there is none now, or none at all."""
        if not self._ready:
            return None
        _, host = heapq.heappop(self._ready)
        waiting = self._waiting[host]
        _, link = waiting.popleft()
        self._under_way[host] = self._under_way.get(host, 0) + 1
        if not waiting:
            del self._waiting[host]
        elif self._under_way[host] < self._per_host:
            heapq.heappush(self._ready, (waiting[0][0], host))
        return link

    def done(self, link: LinkT) -> None:
        """Free the slot that a link has held."""
        host = host_of(link.url)
        was_full = self._under_way[host] == self._per_host
        self._under_way[host] -= 1
        if not self._under_way[host]:
            del self._under_way[host]
        if was_full and host in self._waiting:
            heapq.heappush(self._ready, (self._waiting[host][0][0], host))


def host_of(url: str) -> str:
    """Return a URL's host in lower case; the same for all that have none."""
    try:
        return urlsplit(url.strip()).hostname or ""
    except ValueError:
        return ""
