"""One URL in, one outcome out: redirects followed hop by hop, every end translated once.

Invariant: `Fetcher.fetch` returns a value for any string and any server, within the policy's time and bytes, and raises
nothing but trio's cancellation. Every hop is parsed, resolved, checked and connected to anew.
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
"""203 is a 200 that a proxy has touched."""

BUSY = frozenset({429, 503})
"""May say when to come back."""

_OUTCOME_BY_STATUS = {
    404: Outcome.NOT_FOUND,
    410: Outcome.GONE,
    429: Outcome.RATE_LIMITED,
    **dict.fromkeys((401, 402, 403, 407, 451), Outcome.FORBIDDEN),
}

_MAX_HEADER_CHARACTERS = 200
"""Of a content type, as it goes into the shard's row."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A body that begins as an image, as received, undone of its content coding."""

    data: bytes
    http_status: int
    content_type: str | None
    final_url: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is none; `final_url` is the one asked last, status and type are None when it gave no response."""

    outcome: Outcome
    reason: str
    transient: bool
    http_status: int | None
    content_type: str | None
    final_url: str | None
    seconds: float
    retry_after_seconds: float | None = None
    """The server's wish, with 429 and 503."""


@dataclass(slots=True)
class _HopRecord:
    """How far a link came."""

    started: float = field(default_factory=trio.current_time)
    http_status: int | None = None
    content_type: str | None = None
    final_url: str | None = None

    def begin_hop(self, url: str) -> None:
        """Note that a hop begins."""
        self.final_url = url
        self.http_status = self.content_type = None

    def note_reply(self, reply: Reply) -> None:
        """Note a response's head."""
        content_type = reply.header(b"content-type")
        self.http_status = reply.status
        self.content_type = content_type.decode("latin-1")[:_MAX_HEADER_CHARACTERS] if content_type else None

    def note_robots_failure(self, url: str, http_status: int | None) -> None:
        """Note that a robots.txt could not be had."""
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
    """Fetches links under one policy; connections, names and memory are shared by all. Use as an async context."""

    def __init__(
        self,
        policy: FetchPolicy,
        admit: Callable[[Target], None] | None = None,
        robots: RobotsCache | None = None,
    ) -> None:
        """`admit` is asked before each hop, and raises LinkFailed for what must not be contacted now or ever.

        `robots` is what is known of robots.txt already; it is read and written only under a policy that asks for them.
        """
        self._policy = policy
        self._admit = admit
        seconds = min(policy.dns_seconds, 0.8 * policy.timeout_seconds)  # so that DNS has its own outcome
        self._session = CheckedSession(policy, Resolver(policy.nameservers, seconds=seconds))
        self._memory = MemoryBudget(max(policy.memory_bytes, policy.max_bytes))
        self._robots = Robots(self._session, policy, self._memory, robots or RobotsCache(), admit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def share(self) -> MemoryShare:
        """Make the block within which one link's body lives."""
        return self._memory.share()

    async def fetch(self, url: str, share: MemoryShare) -> Fetched | Failure:
        """Fetch one URL. The body counts against `share` until its block is left."""
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
                await self._heed_robots(target, context, record)
            record.begin_hop(target.url)
            reply = await self._session.ask(target, context)
            if reply.status not in REDIRECTS:
                self._check(reply)
                return reply
            target = redirect_target(target, reply.header(b"location"))
            if target.url in seen:
                raise LinkFailed(Outcome.REDIRECT_LOOP, "back to a URL already visited")
            if len(seen) > self._policy.max_redirects:
                raise LinkFailed(Outcome.REDIRECT_LOOP, "one redirect too many")

    async def _heed_robots(self, target: Target, context: RequestContext, record: _HopRecord) -> None:
        """Wait for a robots.txt, which has a time limit of its own; the link's deadline moves by as much."""
        with context.paused():
            await self._robots.check(target, record.note_robots_failure)
        if self._admit is not None:
            self._admit(target)  # the host may have begun to rest meanwhile

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
