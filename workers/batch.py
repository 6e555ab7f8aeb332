"""One batch of links: fetched, prepared and written as a shard.

Invariant: every link of the batch is in exactly one of finished, again and returned, and has a row in the shard unless
it is returned. At a stop what is under way gets a few seconds, then the shard is closed with what is done.

Fetching runs on trio; large or unusual pictures are decoded in threads, as many as there are cores, all others at once
where they arrive: a thread for each costs 0.6 ms of CPU, most of it two threads' quarrel over the interpreter (3.7
against 3.1 ms a picture, resized to 256). A machine with more cores runs more workers. A body is held until its picture
is written, and all bodies share one budget of memory.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from dataset.image_rules import ImageRules
from dataset.images import Picture, prepare
from dataset.jpeg import read_plain_size
from dataset.outcomes import Outcome
from dataset.restricted import Restricted
from dataset.shards import LinkRow, ShardError, ShardWriter
from dataset.store import Store, StoreError
from workers.fetching.fetch import Failure, Fetched, Fetcher
from workers.fetching.policy import FetchPolicy
from workers.hosts import HostQueue, host_of

QUICK_PIXELS = 2_000_000
"""A JPEG of no more takes 15 ms at the most, for which nobody times out."""

QUICK_BYTES = 2_000_000
"""Kept as received, these take 5 ms to hash and write."""

HOST_FAULTS = frozenset(
    {
        Outcome.DNS_ERROR,
        Outcome.CONNECT_ERROR,
        Outcome.TLS_ERROR,
        Outcome.TIMEOUT,
        Outcome.RATE_LIMITED,
        Outcome.SERVER_ERROR,
    }
)
"""What says that a host does not want or cannot have more requests; any other end shows that it works."""


class Link(Protocol):
    """A candidate as the tracker hands it out."""

    @property
    def position(self) -> int: ...
    @property
    def pack(self) -> int: ...
    @property
    def pack_row(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def language(self) -> str | None: ...
    @property
    def url(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def extra(self) -> str: ...


@dataclass(slots=True)
class BatchOutcome:
    """What became of a batch; positions are the links'. `finished` counts final rows only."""

    finished: Counter[Outcome] = field(default_factory=Counter)
    again: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    rows: int = 0
    samples: int = 0
    bytes: int = 0
    """Received, of all bodies that came whole."""


async def download_batch(
    links: Sequence[Link],
    *,
    job_id: int,
    subset: str,
    output: str,
    store: Store,
    rules: ImageRules,
    policy: FetchPolicy,
    max_attempts: int,
    on_progress: Callable[[int], None],
    stop: trio.Event,
    extra: Mapping[str, str] | None = None,
    restricted: Restricted | None = None,
) -> BatchOutcome:
    """Download a batch into the shard `output`; `on_progress` gets the number of links done, after each.

    Attempts count from 1: a passing failure of attempt `max_attempts` is final. `extra` are the types of a list's other
    columns, by name.

    Raises: ShardError when the shard cannot be written; then nothing of it is in the store.
    """
    try:
        with ShardWriter(store, output, job_id=job_id, subset=subset, extra=extra) as shard:
            batch = _Batch(links, shard, rules, policy, max_attempts, on_progress, restricted or Restricted())
            await batch.run(stop)
            await trio.to_thread.run_sync(shard.publish)
    except (OSError, StoreError) as error:
        raise ShardError(f"The shard {output} cannot be written ({error}): mend the store and try again.") from error
    return batch.close()


class _Batch:
    """A batch under way."""

    def __init__(
        self,
        links: Sequence[Link],
        shard: ShardWriter,
        rules: ImageRules,
        policy: FetchPolicy,
        max_attempts: int,
        on_progress: Callable[[int], None],
        restricted: Restricted,
    ) -> None:
        self._links = links
        self._shard = shard
        self._rules = rules
        self._policy = policy
        self._max_attempts = max_attempts
        self._on_progress = on_progress
        self._restricted = restricted
        self._queue = HostQueue(
            links,
            policy.per_host,
            spacing_seconds=policy.host_spacing_seconds,
            max_failures=policy.host_failures,
        )
        self._freed = trio.lowlevel.ParkingLot()  # tasks that wait for a host's slot
        self._threads = trio.CapacityLimiter(os.cpu_count() or 1)
        self._is_stopping = False
        self._write_error: OSError | StoreError | None = None
        self._done: set[int] = set()
        self._outcome = BatchOutcome()

    async def run(self, stop: trio.Event) -> None:
        """Work until every link is done, or until the grace after a stop is over.

        Raises: OSError, StoreError when a sample cannot be written.
        """
        scope = trio.CancelScope()
        async with Fetcher(self._policy) as fetcher, trio.open_nursery() as watch:
            watch.start_soon(self._heed, stop, scope)
            with scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(min(self._policy.concurrency, len(self._links))):
                        nursery.start_soon(self._work, fetcher, scope)
            watch.cancel_scope.cancel()
        if self._write_error is not None:
            raise self._write_error

    def close(self) -> BatchOutcome:
        """Sum up."""
        outcome = self._outcome
        outcome.returned = [link.position for link in self._links if link.position not in self._done]
        outcome.rows, outcome.samples = self._shard.rows, self._shard.samples
        return outcome

    async def _heed(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        self._is_stopping = True
        self._freed.unpark_all()
        scope.deadline = trio.current_time() + self._policy.stop_grace_seconds

    async def _work(self, fetcher: Fetcher, scope: trio.CancelScope) -> None:
        while not self._is_stopping:
            link = self._queue.take(trio.current_time())
            if link is None:
                if not len(self._queue):
                    break
                with trio.move_on_after(self._queue.seconds_to_wait(trio.current_time())):
                    await self._freed.park()
                continue
            try:
                await self._download(link, fetcher)
            except (OSError, StoreError) as error:
                self._write_error = error
                scope.cancel()
            self._queue.done(link)
            self._freed.unpark_all() if not len(self._queue) else self._freed.unpark()

    async def _download(self, link: Link, fetcher: Fetcher) -> None:
        with fetcher.share() as share:
            result = await fetcher.fetch(link.url, share)
            if isinstance(result, Failure) or self._is_quick(result):
                row = self._keep(link, result)
            else:
                row = await trio.to_thread.run_sync(self._keep, link, result, limiter=self._threads)
        self._count(link, row, result)
        for left in self._learn(link, result):
            assert isinstance(result, Failure)
            self._count(left, self._keep(left, _not_asked(result)), None)

    def _count(self, link: Link, row: LinkRow, result: Fetched | Failure | None) -> None:
        self._done.add(link.position)
        if isinstance(result, Fetched):
            self._outcome.bytes += len(result.data)
        if row.final:
            self._outcome.finished[row.outcome] += 1
        else:
            self._outcome.again.append(link.position)
        self._on_progress(len(self._done))

    def _learn(self, link: Link, result: Fetched | Failure) -> Sequence[Link]:
        """Hold what a link met against its host; return the links that will not be asked in this batch."""
        if isinstance(result, Fetched) or result.outcome not in HOST_FAULTS:
            self._queue.answered(link)
            return ()
        if host_of(result.final_url or "") != host_of(link.url):
            return ()  # another host's fault, to which this one has led
        if result.retry_after_seconds is not None:
            if result.retry_after_seconds > self._policy.max_rest_seconds:
                return self._queue.give_up(link)
            self._queue.rest(link, trio.current_time() + result.retry_after_seconds)
        return self._queue.failed(link)

    def _is_quick(self, result: Fetched) -> bool:
        """Say whether a thread would cost more than it saves."""
        if not self._rules.reencode:
            return len(result.data) <= QUICK_BYTES
        size = read_plain_size(result.data)
        return size is not None and size[0] * size[1] <= QUICK_PIXELS

    def _keep(self, link: Link, result: Fetched | Failure) -> LinkRow:
        """Prepare the picture, if there is one, and write the link's row."""
        picture: Picture | None = None
        if isinstance(result, Failure):
            outcome, reason = result.outcome, result.reason
            final = not (result.transient and link.attempt < self._max_attempts)
        else:
            prepared = prepare(result.data, self._rules)
            final, reason = True, None
            if isinstance(prepared, Picture) and self._restricted.matches(
                sha256=prepared.sha256, md5=prepared.md5, pdq=prepared.pdq
            ):
                outcome = Outcome.BLOCKED
            elif isinstance(prepared, Picture):
                outcome, picture = Outcome.SUCCESS, prepared
            else:
                outcome = prepared
        row = LinkRow(
            position=link.position,
            pack=link.pack,
            pack_row=link.pack_row,
            attempt=link.attempt,
            final=final,
            language=link.language,
            url=link.url,
            caption=link.text,
            outcome=outcome,
            extra=link.extra,
            reason=reason,
            http_status=result.http_status,
            content_type=result.content_type,
            final_url=result.final_url,
            fetch_seconds=result.seconds,
            bytes_received=len(result.data) if isinstance(result, Fetched) and outcome is not Outcome.BLOCKED else None,
            picture=picture,
        )
        self._shard.add(row)
        return row


def _not_asked(last: Failure) -> Failure:
    """Make the end of a link whose host was given up: its host's last fault, to be tried again in another batch."""
    return Failure(
        outcome=last.outcome,
        reason="not asked: its host kept failing",
        transient=True,
        http_status=None,
        content_type=None,
        final_url=None,
        seconds=0.0,
    )
