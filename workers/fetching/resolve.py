"""Names to addresses: dnspython under trio, with a cache that also remembers what failed.

Invariant: at most one lookup of a name is in flight; an answer is kept for its TTL within bounds; memory is bounded by
the number of names. AAAA is asked only where there is no A: most machines of a swarm have no IPv6 route, and half the
queries are saved. An address that was not asked for is never connected to.

Source: img2dataset's users lose up to 70 % of downloads to resolvers that are asked too much at once, hence the bound
on queries. dnspython's own cache is left out: it knows no failures but NXDOMAIN and does not merge queries in flight.

/etc/resolv.conf is read once, at the worker's start: a line that is broken there, or a file that is being rewritten,
must not fail batches.

Rejected: getaddrinfo in threads (a thread a name, no TTL, no word on why), and /etc/hosts (no crawl needs local names).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from ipaddress import ip_address
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import trio

from dataset.pictures.outcomes import Outcome
from workers.fetching.addresses import Address, parse_address
from workers.fetching.dns_backend import TrioBackend
from workers.fetching.failure import LinkFailed
from workers.fetching.policy import read_nameserver
from workers.runtime import metrics

log = logging.getLogger("shoal.worker")

RESOLV_CONF = "/etc/resolv.conf"

MIN_TTL_SECONDS, MAX_TTL_SECONDS = 60.0, 3_600.0
"""An answer is kept at least a minute, whatever it says: a batch asks for the same name again within seconds."""

NO_NAME_SECONDS = 600.0
"""How long a name that does not exist is not asked for again."""

NO_ANSWER_SECONDS = 30.0
"""The same after SERVFAIL or silence (RFC 2308, 7: at most 5 minutes)."""

MAX_NAMES = 100_000
"""About 50 MB of names and addresses at the very most; a batch has 10,000 links."""

MAX_QUERIES = 128
"""In flight at once, over all names."""


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    """What is known of a name until `until`, on trio's clock."""

    until: float
    addresses: tuple[Address, ...] = ()
    reason: str = ""
    transient: bool = False


class Resolver:
    """Resolves names through the given resolvers, or those of /etc/resolv.conf."""

    def __init__(self, nameservers: Sequence[str] = (), *, seconds: float = 5.0) -> None:
        self._resolver = _system_resolver() if not nameservers else dns.asyncresolver.Resolver(configure=False)
        if nameservers:
            self._resolver.nameservers = [
                dns.nameserver.Do53Nameserver(*read_nameserver(place)) for place in nameservers
            ]
            self._resolver.rotate = True
        self._resolver.timeout = min(2.0, seconds)  # for one resolver, before the next is asked
        self._resolver.lifetime = seconds
        self._backend = TrioBackend()
        self._cache: dict[str, _CacheEntry] = {}
        self._in_flight: dict[str, trio.Event] = {}
        self._slots = trio.CapacityLimiter(MAX_QUERIES)

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """Return a host's addresses, at least one; an address is its own.

        Raises: LinkFailed: dns_error when there is none, refused_address for an odd spelling of an address.
        """
        literal = parse_address(host)
        if literal is not None:
            return (literal,)
        while True:
            known = self._cache.get(host)
            if known is not None and known.until > trio.current_time():
                break
            if host not in self._in_flight:
                known = await self._look_up(host)
                break
            await self._in_flight[host].wait()  # and look again: who asked may have been cancelled
        if not known.addresses:
            raise LinkFailed(Outcome.DNS_ERROR, known.reason, transient=known.transient)
        return known.addresses

    async def _look_up(self, host: str) -> _CacheEntry:
        done = self._in_flight[host] = trio.Event()
        try:
            async with self._slots:
                started = trio.current_time()
                known = await self._ask(host)
                result = "found" if known.addresses else "failed" if known.transient else "no_name"
                metrics.LOOKUP_BY_RESULT[result].observe(trio.current_time() - started)
            self._remember(host, known)
            return known
        finally:
            del self._in_flight[host]
            done.set()

    def _remember(self, host: str, known: _CacheEntry) -> None:
        self._cache.pop(host, None)
        self._cache[host] = known
        if len(self._cache) > MAX_NAMES:
            del self._cache[next(iter(self._cache))]

    async def _ask(self, host: str) -> _CacheEntry:
        name = dns.name.from_text(f"{host}.")
        now = trio.current_time
        deadline = now() + self._resolver.lifetime
        try:
            for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
                left = max(0.1, deadline - now())
                answer = await self._resolver.resolve(
                    name, kind, raise_on_no_answer=False, lifetime=left, search=False, backend=self._backend
                )
                if answer.rrset:
                    ttl = min(max(float(answer.rrset.ttl), MIN_TTL_SECONDS), MAX_TTL_SECONDS)
                    return _CacheEntry(now() + ttl, tuple(ip_address(record.address) for record in answer.rrset))
        except dns.resolver.NXDOMAIN:
            return _CacheEntry(now() + NO_NAME_SECONDS, reason="the name does not exist (NXDOMAIN)")
        except dns.resolver.LifetimeTimeout:
            return _CacheEntry(now() + NO_ANSWER_SECONDS, reason="no resolver answered in time", transient=True)
        except (dns.exception.DNSException, OSError, ValueError):  # SERVFAIL, REFUSED, garbage from all resolvers
            return _CacheEntry(now() + NO_ANSWER_SECONDS, reason="the resolvers failed (SERVFAIL)", transient=True)
        return _CacheEntry(now() + NO_NAME_SECONDS, reason="the name has no address")


@cache
def system_resolv_conf(path: str) -> str:
    """Return the lines of a resolv.conf that dnspython takes, read once a process.

    A line that it refuses, such as a resolver that is not an address, is skipped with a warning, as glibc skips it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        log.warning("resolv_conf.unreadable path=%s error=%r; names resolve only by --nameserver", path, str(error))
        return ""
    taken = "\n".join(line for line in lines if _is_taken(line, path))
    try:
        _read_resolv_conf(taken)
    except dns.resolver.NoResolverConfiguration:
        log.warning("resolv_conf.empty path=%s; names resolve only by --nameserver", path)
    return taken


def _is_taken(line: str, path: str) -> bool:
    try:
        _read_resolv_conf(f"{line}\nnameserver 127.0.0.1")  # without a resolver every file is refused
    except (dns.exception.DNSException, ValueError) as error:
        log.warning("resolv_conf.line_skipped path=%s line=%r error=%r", path, line, str(error))
        return False
    return True


def _read_resolv_conf(text: str) -> dns.asyncresolver.Resolver:
    """Raises: NoResolverConfiguration when no resolver is named; DNSException, ValueError for what cannot be read."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.read_resolv_conf(StringIO(text))
    return resolver


def _system_resolver() -> dns.asyncresolver.Resolver:
    try:
        return _read_resolv_conf(system_resolv_conf(RESOLV_CONF))
    except dns.resolver.NoResolverConfiguration:  # then every name fails, and addresses work
        return dns.asyncresolver.Resolver(configure=False)
