"""One batch of links: fetched, prepared and written as a shard.

Invariant: every link of the batch ends in exactly one of finished, again, later and returned; links in the first two
have a row in the shard. At a stop, links in progress get a few more seconds; then the shard is closed.

Fetching runs on trio. Pictures are decoded in separate processes, one per core (`decoder_pool`). Pictures that are kept
as received are not decoded: they are hashed and written at once, large ones in a thread. A body stays in memory until
its picture is written; all bodies share one memory budget.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import trio

from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import ShardError
from dataset.pictures.headers import keep_received
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.extra_columns import unpack_one
from dataset.recipe.image_rules import ImageRules
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store, StoreError
from workers.download.decoder_pool import Decoders, Undecoded
from workers.download.host_rests import HostRests
from workers.download.politeness import Politeness, SkippedLink, blocked
from workers.fetching.failure import LinkFailed
from workers.fetching.fetch import Failure, Fetched, Fetcher
from workers.fetching.policy import FetchPolicy
from workers.fetching.robots import RobotsCache
from workers.fetching.target import Target
from workers.runtime import metrics

QUICK_BYTES = 2_000_000
"""Larger pictures are written in a thread; a picture of this size, kept as received, takes 5 ms to hash and write."""


class Link(Protocol):
    """A candidate as it comes from the tracker."""

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
    """The result of a batch. `finished` counts final rows; the lists have positions of links in the batch."""

    finished: Counter[Outcome] = field(default_factory=Counter)
    again: list[int] = field(default_factory=list)
    later: list[tuple[int, float]] = field(default_factory=list)
    """Links of resting hosts: position, and seconds until a retry. They do not use up an attempt."""
    returned: list[int] = field(default_factory=list)
    rows: int = 0
    samples: int = 0
    bytes: int = 0
    """Sum over all completely received bodies."""
    hosts_asked: int = 0
    hosts_refused: int = 0
    """Hosts that answered 403, 429 or 503 at least once."""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """The links of a batch, the shard that they become, and the rules for both."""

    links: Sequence[Link]
    job_id: int
    subset: str
    output: str
    """The shard's path in the store, without an ending."""
    store: Store
    rules: ImageRules
    policy: FetchPolicy
    max_attempts: int
    """Attempts count from 1; a transient failure of this attempt is final."""
    on_progress: Callable[[int], None]
    """Called after each link with the number of links done."""
    rests: HostRests | None = None
    """Other workers' knowledge of hosts; None: only this worker's own responses count."""
    robots: RobotsCache | None = None
    """The robots.txt of earlier batches."""
    extra: Mapping[str, str] | None = None
    """The types of a link list's further columns, by name."""
    sha256_column: str | None = None
    """The column of `extra` with the sha256 that the list gives for the picture."""
    restricted: HashLists = field(default_factory=HashLists)
    """Pictures that are not kept, and links that are not asked for."""


async def download_batch(job: BatchJob, stop: trio.Event, decoders: Decoders | None = None) -> BatchOutcome:
    """Download a batch into its shard. Without `decoders` the batch starts its own, and ends them.

    Raises: ShardError when the shard cannot be written; then nothing of it is in the store.
    """
    try:
        with (
            ShardWriter(job.store, job.output, job_id=job.job_id, subset=job.subset, extra=job.extra) as shard,
            nullcontext(decoders) if decoders else Decoders() as open_decoders,
        ):
            batch = _Batch(job, shard, open_decoders)
            await batch.run(stop)
            await trio.to_thread.run_sync(shard.publish)
    except (OSError, StoreError) as error:
        raise ShardError(f"Cannot write the shard {job.output} ({error}): repair the store and try again.") from error
    return batch.close()


class _Batch:
    """The state of a batch in progress."""

    def __init__(self, job: BatchJob, shard: ShardWriter, decoders: Decoders) -> None:
        self._job = job
        self._shard = shard
        self._decoders = decoders
        self._politeness = Politeness(job.links, job.policy, job.rests)
        self._queue = self._politeness.queue
        self._freed = trio.lowlevel.ParkingLot()  # tasks that wait for a host's slot
        self._threads = trio.CapacityLimiter(os.cpu_count() or 1)
        self._is_stopping = False
        self._write_error: OSError | StoreError | None = None
        self._done: set[int] = set()
        self._outcome = BatchOutcome()

    async def run(self, stop: trio.Event) -> None:
        """Work until every link is done, or until the grace period after a stop ends.

        Raises: OSError, StoreError when a sample cannot be written.
        """
        scope = trio.CancelScope()
        async with Fetcher(self._job.policy, self._admit, self._job.robots) as fetcher, trio.open_nursery() as watch:
            watch.start_soon(self._watch_stop, stop, scope)
            with scope, self._following_news(scope):
                async with trio.open_nursery() as nursery:
                    for _ in range(min(self._job.policy.concurrency, len(self._job.links))):
                        nursery.start_soon(self._work, fetcher, scope)
            watch.cancel_scope.cancel()
        if self._write_error is not None:
            raise self._write_error

    def close(self) -> BatchOutcome:
        """Return the result."""
        outcome = self._outcome
        outcome.returned = [link.position for link in self._job.links if link.position not in self._done]
        outcome.hosts_asked, outcome.hosts_refused = len(self._politeness.asked), len(self._politeness.refused)
        outcome.rows, outcome.samples = self._shard.rows, self._shard.samples
        return outcome

    async def _watch_stop(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        self._is_stopping = True
        self._freed.unpark_all()
        scope.deadline = trio.current_time() + self._job.policy.stop_grace_seconds

    @contextmanager
    def _following_news(self, scope: trio.CancelScope) -> Iterator[None]:
        """Apply what other workers know of hosts, now and whenever news arrives during the block."""
        if self._job.rests is None:
            yield
            return

        def apply(hosts: Sequence[str] | None) -> None:
            try:
                self._skip(self._politeness.apply_news(hosts, trio.current_time()))
            except (OSError, StoreError) as error:
                self._write_error = error
                scope.cancel()
            self._freed.unpark_all()

        apply(None)
        self._job.rests.on_news = apply
        try:
            yield
        finally:
            self._job.rests.on_news = None

    def _admit(self, target: Target) -> None:
        """Refuse denied, blocked and resting hosts. Called before every hop, so also for the target of a redirect."""
        if self._job.restricted.has_links and self._job.restricted.names_link(target.url):
            raise LinkFailed(Outcome.BLOCKED, "its host or URL is blocked")
        if self._job.rests is None:
            return
        if self._job.rests.blocks.covers(target.host, target.authority, target.url):
            raise LinkFailed(Outcome.BLOCKED, "its host or URL is blocked")
        if self._job.rests.seconds_to_wait(target.host, trio.current_time()):
            raise LinkFailed(Outcome.RATE_LIMITED, "not asked: its host rests")

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
            result = blocked() if self._is_denied(link) else await fetcher.fetch(link.url, share)
            if isinstance(result, Failure):
                row = self._keep(link, result)
            elif self._job.rules.reencode or self._job.rules.pdq:
                row = self._keep(link, result, await self._decoders.prepare(result.data, self._job.rules))
            elif len(result.data) <= QUICK_BYTES:
                row = self._keep(link, result, keep_received(result.data, self._job.rules))
            else:
                row = await trio.to_thread.run_sync(self._keep_large, link, result, limiter=self._threads)
        self._count(link, row, result)
        self._skip(self._politeness.record_answer(link, result, trio.current_time()))

    def _skip(self, skipped: Sequence[SkippedLink[Link]]) -> None:
        """Record links that are not fetched in this batch."""
        for one in skipped:
            if one.failure is not None:
                self._count(one.link, self._keep(one.link, one.failure), None)
            else:
                assert one.later_seconds is not None
                self._done.add(one.link.position)
                self._outcome.later.append((one.link.position, one.later_seconds))
                self._job.on_progress(len(self._done))

    def _count(self, link: Link, row: LinkRow, result: Fetched | Failure | None) -> None:
        self._done.add(link.position)
        metrics.LINK_BY_OUTCOME[row.outcome].inc()
        if isinstance(result, Fetched):
            self._outcome.bytes += len(result.data)
            metrics.RECEIVED.inc(len(result.data))
        if row.final:
            self._outcome.finished[row.outcome] += 1
        else:
            self._outcome.again.append(link.position)
        self._job.on_progress(len(self._done))

    def _keep_large(self, link: Link, result: Fetched) -> LinkRow:
        return self._keep(link, result, keep_received(result.data, self._job.rules))

    def _keep(
        self, link: Link, result: Fetched | Failure, prepared: Picture | Undecoded | Outcome | None = None
    ) -> LinkRow:
        """Write the link's row, with its picture if there is one."""
        picture, reason, final, is_listed = None, None, True, self._is_denied(link)
        if isinstance(result, Failure):
            outcome, reason = result.outcome, result.reason
            final = not (result.transient and link.attempt < self._job.max_attempts)
        elif isinstance(prepared, Picture):
            if self._job.restricted.matches(
                sha256=prepared.sha256, md5=prepared.md5, sha1=prepared.sha1, pdq=prepared.pdq
            ):
                outcome, is_listed = Outcome.BLOCKED, True
            elif self._has_changed(link, prepared):
                outcome = Outcome.CHANGED
            else:
                outcome, picture = Outcome.SUCCESS, prepared
        elif isinstance(prepared, Undecoded):
            outcome, reason = prepared.outcome, prepared.reason
        else:
            assert prepared is not None
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
            bytes_received=len(result.data) if isinstance(result, Fetched) else None,
            picture=picture,
            anonymous=is_listed,
        )
        self._shard.add(row)
        return row

    def _is_denied(self, link: Link) -> bool:
        """Return whether the link is on a deny list, or was blanked while it waited."""
        restricted = self._job.restricted
        return not link.url or (restricted.has_links and restricted.names_link(link.url, link.text))

    def _has_changed(self, link: Link, picture: Picture) -> bool:
        """Return whether the picture's sha256 differs from the list's; False if the list has none."""
        column = self._job.sha256_column
        if column is None:
            return False
        said = unpack_one(link.extra, {column: "string"})[column]
        return isinstance(said, str) and said.strip().lower() not in ("", picture.sha256)
