"""robots.txt: the URLs that a site's owner allows Shoal to fetch.

Invariant: with robots on, the robots.txt of an origin (scheme, host and port) is known before any URL of it is fetched,
at every hop. It is fetched once at a time, through the same checks as any URL. The cache is bounded in number and
bytes, and entries are at most a day old.

Source: RFC 9309. 2.2.1: the group with our product's whole name applies (upper and lower case are equal), otherwise the
group of `*`. 2.3.1.2: after five redirects the file counts as missing. 2.3.1.3: 4xx allows everything; 429, which the
RFC leaves open, is treated as a busy server. 2.3.1.4: 5xx and an unreachable host allow nothing; the link ends with
that failure, and is retried if it is transient. 2.4: cached for a day. 2.5: 500 KiB are parsed.

The parser is Scrapy's Protego (0.2 ms for an ordinary file, no backtracking on wildcards). Rejected: urllib.robotparser
(no wildcards, first match instead of longest), reppy (no release since 2019), robotspy (half as fast).
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio
from protego import Protego

from dataset.pictures.outcomes import Outcome
from workers.fetching.body import MemoryBudget
from workers.fetching.failure import LinkFailed
from workers.fetching.policy import FetchPolicy
from workers.fetching.response import Reply, RequestContext
from workers.fetching.retry_after import retry_after_seconds
from workers.fetching.session import CheckedSession
from workers.fetching.target import Target, parse_target, redirect_target

MAX_REDIRECTS = 5
PARSED_BYTES = 500 << 10
KEPT_SECONDS = 86_400.0

UNREACHABLE_SECONDS = 600.0
"""How long a failure is cached: as long as the pause before a link's second attempt."""

MAX_ORIGINS = 50_000
MAX_KEPT_BYTES = 32 << 20
"""Sum of the files as received; parsed they take about five times as much."""

QUICK_BYTES = 16 << 10
"""A longer file is parsed in a thread: 400 KB take over two seconds."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})


_AGENT_LINE = re.compile(
    r"\s*user(?:-|\s*)agent(?:\s*:|\s)\s*(?:(?P<everyone>\*)(?=[\s#]|\Z)|\**(?P<name>[^\s/#*]+))", re.IGNORECASE
)
"""The agent of a group: everyone, or a product, whose version is ignored (`User-agent: shoal/0.1`)."""


@dataclass(frozen=True, slots=True)
class CachedRules:
    """The rules of an origin until `until` on trio's clock. With neither rules nor failure everything is allowed."""

    until: float
    size: int = 0
    rules: Protego | None = None
    failure: LinkFailed | None = None
    http_status: int | None = None


@dataclass(slots=True)
class RobotsCache:
    """The rules of origins, kept over all batches of a worker."""

    known: OrderedDict[str, CachedRules] = field(default_factory=OrderedDict)
    size: int = 0

    def get(self, origin: str, now: float) -> CachedRules | None:
        rules = self.known.get(origin)
        return rules if rules is not None and rules.until > now else None

    def put(self, origin: str, rules: CachedRules) -> None:
        """Keep rules; drop the oldest entries if there is not enough space."""
        old = self.known.pop(origin, None)
        self.size += rules.size - (old.size if old else 0)
        self.known[origin] = rules
        while len(self.known) > MAX_ORIGINS or self.size > MAX_KEPT_BYTES:
            self.size -= self.known.popitem(last=False)[1].size


class Robots:
    """Fetches, caches and applies robots.txt."""

    def __init__(
        self, session: CheckedSession, policy: FetchPolicy, budget: MemoryBudget, memory: RobotsCache,
        admit: Callable[[Target], None] | None,
    ) -> None:  # fmt: skip
        self._session = session
        self._policy = policy
        self._budget = budget
        self._memory = memory
        self._admit = admit
        self._in_flight: dict[str, trio.Event] = {}

    async def check(self, target: Target, on_failure: Callable[[str, int | None], None]) -> None:
        """Check that a target is allowed; `on_failure` gets the URL and status of a robots.txt that just failed.

        Raises: LinkFailed: opted_out when the target is disallowed; the failure of the robots.txt.
        """
        rules = self._memory.get(target.origin, trio.current_time())
        while rules is None:
            if target.origin not in self._in_flight:
                rules = await self._fetch_once(target)
                if rules.failure is not None:
                    on_failure(f"{target.origin}/robots.txt", rules.http_status)
                break
            await self._in_flight[target.origin].wait()  # then check again: that fetch may have been cancelled
            rules = self._memory.get(target.origin, trio.current_time())
        if rules.failure is not None:
            end = rules.failure
            raise LinkFailed(
                end.outcome, f"robots.txt: {end.reason}",
                transient=end.transient, retry_after_seconds=end.retry_after_seconds,
            ) from end  # fmt: skip
        if rules.rules is not None and not is_allowed(rules.rules, target.url, self._policy.agent_token):
            raise LinkFailed(Outcome.OPTED_OUT, "robots.txt")

    async def _fetch_once(self, target: Target) -> CachedRules:
        done = self._in_flight[target.origin] = trio.Event()
        try:
            rules = await self._fetch(target)
            self._memory.put(target.origin, rules)
            return rules
        finally:
            del self._in_flight[target.origin]
            done.set()

    async def _fetch(self, target: Target) -> CachedRules:
        late = trio.current_time() + UNREACHABLE_SECONDS
        status: int | None = None
        try:
            with self._budget.share() as share, trio.move_on_after(self._policy.timeout_seconds) as scope:
                context = RequestContext(share, scope, lambda reply: reply.status == 200, lambda _start: True)
                reply = await self._follow(parse_target(f"{target.origin}/robots.txt"), context)
                status = reply.status if reply else None
                return await self._read(reply)
        except LinkFailed as end:
            return CachedRules(late, failure=end, http_status=status)
        return CachedRules(late, failure=LinkFailed(Outcome.TIMEOUT, "the request took too long"))

    async def _follow(self, target: Target, context: RequestContext) -> Reply | None:
        """Return the reply of the last hop; None after too many redirects, or an invalid one."""
        for _ in range(1 + MAX_REDIRECTS):
            if self._admit is not None:
                self._admit(target)
            reply = await self._session.ask(target, context)
            if reply.status not in REDIRECTS:
                return reply
            try:
                target = redirect_target(target, reply.header(b"location"))
            except LinkFailed:
                return None
        return None

    async def _read(self, reply: Reply | None) -> CachedRules:
        """Raises: LinkFailed for a busy or broken server."""
        until = trio.current_time() + KEPT_SECONDS
        if reply is not None and (reply.status == 429 or reply.status >= 500):
            outcome = Outcome.RATE_LIMITED if reply.status == 429 else Outcome.SERVER_ERROR
            wish = retry_after_seconds(reply.header(b"retry-after"), datetime.now(UTC))
            raise LinkFailed(outcome, f"the server answered {reply.status}", retry_after_seconds=wish)
        if reply is None or reply.status != 200:
            return CachedRules(until)
        body = reply.body[:PARSED_BYTES]
        if len(body) <= QUICK_BYTES:
            return CachedRules(until, len(body), parse_robots(body))
        return CachedRules(until, len(body), await trio.to_thread.run_sync(parse_robots, body))


def parse_robots(body: bytes) -> Protego:
    """Parse any bytes; invalid lines are ignored."""
    return Protego.parse("\n".join(map(_marked, body.decode("utf-8-sig", "replace").splitlines())))


def is_allowed(rules: Protego, url: str, agent: str) -> bool:
    """Return whether an agent (product name in lower case) may fetch a URL."""
    return bool(rules.can_fetch(url, _whole(agent)))


def _marked(line: str) -> str:
    agent = _AGENT_LINE.match(line)
    if agent is None:
        return line
    return f"User-agent: {'*' if agent['everyone'] else _whole(agent['name'])}"


def _whole(name: str) -> str:
    """Mark both ends of a name, because Protego also applies a group whose name is the beginning of ours."""
    return f"={name}="
