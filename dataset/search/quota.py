"""A quota for each client's address: a token bucket.

IPv6 clients are told apart by their /64, which is what one customer gets. The number of addresses is bounded; the one
that was seen longest ago is forgotten first, and then starts with a full bucket.
"""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from time import monotonic

from starlette.types import Scope

MOST_ADDRESSES = 50_000


class Quota:
    """`per_second` requests of an address on average, `burst` at once; 0 per second means no limit."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → tokens, at this time

    def take(self, address: str) -> float:
        """Take a token; return 0, or the seconds after which there is one again."""
        if not self._per_second:
            return 0.0
        address, now = _network(address), self._clock()
        tokens, then = self._buckets.pop(address, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._per_second)
        missing = max(0.0, 1.0 - tokens)
        self._buckets[address] = (tokens if missing else tokens - 1.0), now
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return missing / self._per_second


def address_of(scope: Scope) -> str:
    """Return the address of a request's client; '' if it is not known."""
    return str((scope.get("client") or ("",))[0])


def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(int(parsed) >> 64) if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None else address
