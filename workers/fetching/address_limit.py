"""How many requests may be under way at once to one address, and how soon after each other, whatever hosts share it.

Thousands of small hosts live behind one address of a hosting firm, and each of them alone is within the bounds for
hosts. The address is the first that the host resolves to.

Rejected: holding such links back in the queue, as for hosts; an address is known only once the name was looked up. So
links of an address that is both slow and shared wait here, each in a place among those under way at once.
"""

import math
from collections import deque

import trio

from workers.fetching.addresses import Address


class AddressLimiter:
    """Lets `limit` in at once for each address, in the order in which they came, `spacing_seconds` apart at least."""

    def __init__(self, limit: int, spacing_seconds: float = 0.0) -> None:
        """A limit of 0 is none."""
        self._limit = limit or math.inf
        self._spacing_seconds = spacing_seconds
        self._inside: dict[Address, int] = {}
        self._waiting: dict[Address, deque[trio.Event]] = {}
        self._next_begin: dict[Address, float] = {}

    def __len__(self) -> int:
        """Count the addresses that somebody is with."""
        return len(self._inside)

    async def acquire(self, address: Address) -> None:
        """Wait for a place, which `release` must give back, and for the time to begin."""
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
        """Give the place to the next who waits."""
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
        """Leave the queue, or pass on the place that was given while the wait was being cancelled."""
        if turn.is_set():
            self.release(address)
            return
        self._waiting[address].remove(turn)
        if not self._waiting[address]:
            del self._waiting[address]
