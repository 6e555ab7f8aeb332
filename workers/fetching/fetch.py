"""One URL in, one outcome out: follow redirects hop by hop, and turn every failure into a value.

Invariant: for any string and any server, `Fetcher.fetch` returns a value within the policy's time and bytes; it raises
only trio's cancellation. Every hop is parsed, resolved and checked again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import trio

from dataset.pictures.headers import image_format
from dataset.pictures.outcomes import Outcome
from workers.fetching.body import MemoryBudget, MemoryShare
from workers.fetching.failure import LinkFailed
from workers.fetching.opt_out import is_opted_out
from workers.fetching.policy import FetchPolicy
from workers.fetching.resolve import Resolver
from workers.fetching.response import Reply, RequestContext
from workers.fetching.retry_after import retry_after_seconds
from workers.fetching.robots import Robots, RobotsCache
from workers.fetching.session import CheckedSession
from workers.fetching.target import Target, parse_target, redirect_target

REDIRECTS = frozenset({301, 302, 303, 307, 308})

WITH_PICTURE = frozenset({200, 203})
"""203 is a 200 that a proxy has modified."""

BUSY = frozenset({429, 503})
"""Statuses whose Retry-After is read."""

_OUTCOME_BY_STATUS = {
    404: Outcome.NOT_FOUND,
    410: Outcome.GONE,
    429: Outcome.RATE_LIMITED,
    **dict.fromkeys((401, 402, 403, 407, 451), Outcome.FORBIDDEN),
}

_MAX_HEADER_CHARACTERS = 200
"""Longest content type in a row of the shard."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A body that begins like an image, as received, with its content coding removed."""

    data: bytes
    http_status: int
    content_type: str | None
    final_url: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed fetch. `final_url` is the last URL requested; status and type are None if it did not respond."""

    outcome: Outcome
    reason: str
    transient: bool
    http_status: int | None
    content_type: str | None
    final_url: str | None
    seconds: float
    retry_after_seconds: float | None = None
    """From Retry-After of a 429 or 503."""


@dataclass(slots=True)
class _HopRecord:
    """The last hop of a link: its URL and what its response said."""

    started: float = field(default_factory=trio.current_time)
    http_status: int | None = None
    content_type: str | None = None
    final_url: str | None = None

    def begin_hop(self, url: str) -> None:
        """Record the start of a hop."""
        self.final_url = url
        self.http_status = self.content_type = None

    def note_reply(self, reply: Reply) -> None:
        """Record the head of a response."""
        content_type = reply.header(b"content-type")
        self.http_status = reply.status
        self.content_type = content_type.decode("latin-1")[:_MAX_HEADER_CHARACTERS] if content_type else None

    def note_robots_failure(self, url: str, http_status: int | None) -> None:
        """Record that a robots.txt could not be fetched."""
        self.begin_hop(url)
        self.http_status = http_status

    def to_failure(self, end: LinkFailed) -> Failure:
        return Failure(
            end.outcome,
            end.reason,
            end.transient,
            self.http_status,
            self.content_type,
            self.final_url,
            trio.current_time() - self.started,
            end.retry_after_seconds,
        )


class Fetcher:
    """Fetches links under one policy with shared connections, DNS cache and memory. Use as an async context manager."""

    def __init__(
        self,
        policy: FetchPolicy,
        admit: Callable[[Target], None] | None = None,
        robots: RobotsCache | None = None,
    ) -> None:
        """`admit` is called before each hop, and raises LinkFailed for a target that must not be contacted.

        `robots` caches robots.txt; it is used only if the policy respects robots.txt.
        """
        self._policy = policy
        self._admit = admit
        seconds = min(policy.dns_seconds, 0.8 * policy.timeout_seconds)  # so that a DNS timeout has its own outcome
        self._session = CheckedSession(policy, Resolver(policy.nameservers, seconds=seconds))
        self._memory = MemoryBudget(max(policy.memory_bytes, policy.max_bytes))
        self._robots = Robots(self._session, policy, self._memory, robots or RobotsCache(), admit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def share(self) -> MemoryShare:
        """Return the memory share of one link; use it as a context manager for the life of the body."""
        return self._memory.share()

    async def fetch(self, url: str, share: MemoryShare) -> Fetched | Failure:
        """Fetch one URL. The body counts against `share` until the share's context is left."""
        record = _HopRecord()

        def wants_body(reply: Reply) -> bool:
            record.note_reply(reply)
            return reply.status in WITH_PICTURE and not self._is_reserved(reply)

        try:
            with trio.move_on_after(self._policy.timeout_seconds) as scope:
                context = RequestContext(share, scope, wants_body, _is_image)
                reply = await self._follow(url, context, record)
                assert record.final_url is not None
                seconds = trio.current_time() - record.started
                return Fetched(reply.body, reply.status, record.content_type, record.final_url, seconds)
        except LinkFailed as end:
            return record.to_failure(end)
        reason = "the request took too long" if context.is_heard else "no response in time"
        return record.to_failure(LinkFailed(Outcome.TIMEOUT, reason))

    async def _follow(self, url: str, context: RequestContext, record: _HopRecord) -> Reply:
        target = parse_target(url)
        seen: set[str] = set()
        while True:
            seen.add(target.url)
            if self._admit is not None:
                self._admit(target)
            if self._policy.robots:
                await self._check_robots(target, context, record)
            record.begin_hop(target.url)
            reply = await self._session.ask(target, context)
            if reply.status not in REDIRECTS:
                self._check(reply)
                return reply
            target = redirect_target(target, reply.header(b"location"))
            if target.url in seen:
                raise LinkFailed(Outcome.REDIRECT_LOOP, "back to a URL already visited")
            if len(seen) > self._policy.max_redirects:
                raise LinkFailed(Outcome.REDIRECT_LOOP, "too many redirects")

    async def _check_robots(self, target: Target, context: RequestContext, record: _HopRecord) -> None:
        """Check robots.txt, which has its own time limit; the link's deadline moves by the time it takes."""
        with context.paused():
            await self._robots.check(target, record.note_robots_failure)
        if self._admit is not None:
            self._admit(target)  # a rest of the host may have begun meanwhile

    def _check(self, reply: Reply) -> None:
        if reply.status not in WITH_PICTURE:
            by_class = Outcome.SERVER_ERROR if reply.status >= 500 else Outcome.HTTP_ERROR
            outcome = _OUTCOME_BY_STATUS.get(reply.status, by_class)
            wish = reply.header(b"retry-after") if reply.status in BUSY else None
            seconds = retry_after_seconds(wish, datetime.now(UTC)) if wish else None
            raise LinkFailed(outcome, f"the server answered {reply.status}", retry_after_seconds=seconds)
        if self._is_reserved(reply):
            raise LinkFailed(Outcome.OPTED_OUT, "a header reserves it")

    def _is_reserved(self, reply: Reply) -> bool:
        return is_opted_out(reply.headers, self._policy.agent_token, self._policy.opt_out_words)


def _is_image(start: bytes) -> bool:
    return image_format(start) is not None
