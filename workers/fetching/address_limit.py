"""A limit on concurrent requests per IP address, and on the time between them, whatever hosts share the address.

Thousands of small hosts share an address of a hosting firm, and each of them alone is within the limits per host. The
address is the first one that the host resolves to.

Rejected: delaying such links in the queue, as for hosts, because the address is known only after the DNS lookup. So
links of a slow, shared address wait here, and count towards `concurrency` while they wait.
"""

import math
from collections import deque

import trio

from workers.fetching.addresses import Address


class AddressLimiter:
    """Admits `limit` requests per address at a time, first come first served, at least `spacing_seconds` apart."""

    def __init__(self, limit: int, spacing_seconds: float = 0.0) -> None:
        """A `limit` of 0 means no limit."""
        self._limit = limit or math.inf
        self._spacing_seconds = spacing_seconds
        self._inside: dict[Address, int] = {}
        self._waiting: dict[Address, deque[trio.Event]] = {}
        self._next_begin: dict[Address, float] = {}

    def __len__(self) -> int:
        """Return the number of addresses with a request in progress."""
        return len(self._inside)

    async def acquire(self, address: Address) -> None:
        """Wait until a request to this address may begin. Call `release` after it."""
        await self._acquire_slot(address)
        if not self._spacing_seconds:
            return
        begin = max(trio.current_time(), self._next_begin.get(address, -math.inf))
        self._next_begin[address] = begin + self._spacing_seconds
        is_in = False
        try:
            await trio.sleep_until(begin)
            is_in = True
        finally:
            if not is_in:
                self.release(address)

    async def _acquire_slot(self, address: Address) -> None:
        if self._inside.get(address, 0) < self._limit:
            self._inside[address] = self._inside.get(address, 0) + 1
            return
        turn = trio.Event()
        self._waiting.setdefault(address, deque()).append(turn)
        is_in = False
        try:
            await turn.wait()
            is_in = True
        finally:
            if not is_in:
                self._give_up(address, turn)

    def release(self, address: Address) -> None:
        """End a request; the next one that waits may begin."""
        waiting = self._waiting.get(address)
        if waiting:
            waiting.popleft().set()
            if not waiting:
                del self._waiting[address]
        elif self._inside[address] == 1:
            del self._inside[address]
        else:
            self._inside[address] -= 1

    def _give_up(self, address: Address, turn: trio.Event) -> None:
        """Leave the queue, or release a permission that was granted during the cancellation."""
        if turn.is_set():
            self.release(address)
            return
        self._waiting[address].remove(turn)
        if not self._waiting[address]:
            del self._waiting[address]
