"""Resolve names to addresses: dnspython under trio, with a cache that also keeps failures.

Invariant: at most one lookup per name is in flight. An answer is kept for its TTL, within bounds, and the number of
names is bounded. AAAA is queried only if a name has no A record, which saves half the queries; most machines have no
IPv6 route.

Source: img2dataset's users lose up to 70 % of their downloads because of overloaded resolvers; therefore the number of
queries is limited.

/etc/resolv.conf is read once, when the worker starts, so that an invalid line or a file that is being rewritten cannot
fail batches.

Rejected: getaddrinfo in threads (a thread per name, no TTL, no reason of failure), /etc/hosts (a crawl needs no local
names), dnspython's cache (of failures it keeps only NXDOMAIN, and it does not merge queries in flight).
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
"""An answer is kept for at least a minute, because a batch needs the same name again within seconds."""

NO_NAME_SECONDS = 600.0
"""How long a nonexistent name is not queried again."""

NO_ANSWER_SECONDS = 30.0
"""How long a name is not queried again after SERVFAIL or a timeout (RFC 2308, 7: at most 5 minutes)."""

MAX_NAMES = 100_000
"""At most about 50 MB; a batch has 10,000 links."""

MAX_QUERIES = 128
"""Queries in flight at the same time."""


@dataclass(frozen=True, slots=True)
class _CacheEntry:
    """The cached result of a lookup, valid until `until` on trio's clock."""

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
        self._resolver.timeout = min(2.0, seconds)  # per resolver, before the next one is queried
        self._resolver.lifetime = seconds
        self._backend = TrioBackend()
        self._cache: dict[str, _CacheEntry] = {}
        self._in_flight: dict[str, trio.Event] = {}
        self._slots = trio.CapacityLimiter(MAX_QUERIES)

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """Return the addresses of a host, at least one; a literal address is returned as it is.

        Raises: LinkFailed: dns_error when the host has no address, refused_address for an odd spelling of an address.
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
            await self._in_flight[host].wait()  # then check again: that lookup may have been cancelled
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
    """Return the lines of a resolv.conf that dnspython accepts; the file is read once per process.

    Other lines, such as a resolver that is not an address, are skipped with a warning; glibc skips them, too.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        log.warning("resolv_conf.unreadable path=%s error=%r; names resolve only by --nameserver", path, str(error))
        return ""
    accepted = "\n".join(line for line in lines if _is_accepted(line, path))
    try:
        _read_resolv_conf(accepted)
    except dns.resolver.NoResolverConfiguration:
        log.warning("resolv_conf.empty path=%s; names resolve only by --nameserver", path)
    return accepted


def _is_accepted(line: str, path: str) -> bool:
    try:
        _read_resolv_conf(f"{line}\nnameserver 127.0.0.1")  # dnspython refuses a file without a resolver
    except (dns.exception.DNSException, ValueError) as error:
        log.warning("resolv_conf.line_skipped path=%s line=%r error=%r", path, line, str(error))
        return False
    return True


def _read_resolv_conf(text: str) -> dns.asyncresolver.Resolver:
    """Raises: NoResolverConfiguration when no resolver is named; DNSException, ValueError for invalid lines."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.read_resolv_conf(StringIO(text))
    return resolver


def _system_resolver() -> dns.asyncresolver.Resolver:
    try:
        return _read_resolv_conf(system_resolv_conf(RESOLV_CONF))
    except dns.resolver.NoResolverConfiguration:  # then only literal addresses work
        return dns.asyncresolver.Resolver(configure=False)
