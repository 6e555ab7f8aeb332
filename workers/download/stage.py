"""Download: a batch is drawn from the pool, its links are fetched, and a shard goes into the store.

    draw → download_batch → complete (outcomes, second tries, returned links and refusals, in one transaction)

When the worker is stopped, the shard is closed with the links that are done; the others go back to the pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from tracker.protocol.payload import read_payload
from tracker.protocol.session import Batch
from workers.download.batch import BatchJob, download_batch
from workers.download.decoder_pool import Decoders
from workers.download.host_rests import HostRests
from workers.fetching.policy import FetchPolicy
from workers.fetching.robots import RobotsCache
from workers.runtime.context import WorkContext
from workers.runtime.hash_lists import HashListCache
from workers.runtime.loop import Stage


@dataclass(slots=True)
class Download(Stage[Batch]):
    kind = "download"
    unit = "links"

    policy: FetchPolicy
    decoders: Decoders
    """Serve one batch after the other; the caller closes them."""
    rests: HostRests = field(default_factory=HostRests)
    """Knowledge of hosts, shared with other workers; `beat` exchanges it."""
    robots: RobotsCache = field(default_factory=RobotsCache)
    hash_lists: HashListCache = field(default_factory=HashListCache)
    _beating: trio.Lock = field(default_factory=trio.Lock)

    def claim(self, context: WorkContext) -> Sequence[Batch]:
        batch = context.session.draw()
        return [batch] if batch else []

    async def work(self, held: Sequence[Batch], context: WorkContext) -> Mapping[str, object]:
        (batch,) = held
        recipe = await trio.to_thread.run_sync(context.follow, batch)
        await self.beat(context)  # the current blocks and rests must be known before any host is contacted
        restricted = await trio.to_thread.run_sync(self.hash_lists.current, context)
        image = recipe.image
        rules = replace(image, pdq=image.pdq or restricted.needs_pdq)
        before = context.progress
        job = BatchJob(
            read_payload(batch.payload),
            job_id=batch.job_id,
            subset=batch.subset,
            output=batch.output,
            store=context.store,
            rules=rules,
            policy=self.policy,
            max_attempts=batch.max_tries,
            on_progress=lambda done: context.advance(before + done - context.progress),
            rests=self.rests,
            robots=self.robots,
            extra=recipe.extra,
            sha256_column=recipe.sha256_column,
            restricted=restricted,
        )
        outcome = await download_batch(job, context.stop, self.decoders)
        await context.call(
            context.session.complete,
            batch,
            {
                "finished": dict(outcome.finished),
                "again": outcome.again,
                "later": outcome.later,
                "returned": outcome.returned,
                "samples": outcome.samples,
                "bytes": outcome.bytes,
                "tar_bytes": await trio.to_thread.run_sync(context.store.size, f"{batch.output}.tar"),
                "hosts": {"asked": outcome.hosts_asked, "refused": outcome.hosts_refused},
                "refused": self.rests.take_refusals(),
            },
        )
        return {
            "candidates": batch.n,
            "samples": outcome.samples,
            "again": len(outcome.again),
            "later": len(outcome.later),
            "returned": len(outcome.returned),
            "bytes": outcome.bytes,
        }

    def size(self, held: Batch) -> int:
        return held.n

    async def beat(self, context: WorkContext) -> str:
        """Send a heartbeat that also reports how hosts behaved, and apply the knowledge of other workers that it
        returns.
        """
        async with self._beating:
            context.urgent = trio.Event()
            self.rests.on_urgent = context.urgent.set
            report = self.rests.take_report()
            is_told = False
            try:
                news = await trio.to_thread.run_sync(
                    context.session.heartbeat_download, context.progress, self.rests.since, report.to_json()
                )
                is_told = True
                if news.blocks != self.rests.blocks_version:
                    blocks = await trio.to_thread.run_sync(context.session.blocks, self.rests.blocks_version)
                    self.rests.apply_blocks(*blocks)
            finally:
                if not is_told:
                    self.rests.restore_report(report)
            self.rests.apply_news(news, trio.current_time())
            return news.state
