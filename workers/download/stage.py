"""Download: a batch is drawn from the pool, its links are fetched, and a shard goes into the store.

    draw → download_batch → complete (outcomes, second tries, returned links and refusals, in one transaction)

A stop closes the shard with what is done; the links that are not go back to the pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from tracker.protocol.payload import read_payload
from tracker.protocol.session import Batch
from workers.download.batch import download_batch
from workers.download.decoder_pool import Decoders
from workers.fetching.policy import FetchPolicy
from workers.fetching.robots import RobotsMemory
from workers.runtime.context import Desk
from workers.runtime.hash_lists import Restrictions


@dataclass(slots=True)
class Download:
    policy: FetchPolicy
    decoders: Decoders
    """Whoever opened them ends them; they serve one batch after the other."""
    kind: str = "download"
    robots: RobotsMemory = field(default_factory=RobotsMemory)
    restrictions: Restrictions = field(default_factory=Restrictions)

    def claim(self, desk: Desk) -> Sequence[Batch]:
        batch = desk.session.draw()
        return [batch] if batch else []

    async def work(self, held: Sequence[Batch], desk: Desk) -> Mapping[str, object]:
        (batch,) = held
        recipe = await trio.to_thread.run_sync(desk.follow, batch)
        await desk.beat()  # no host is asked before the blocks and rests of this moment are known
        restricted = await trio.to_thread.run_sync(self.restrictions.current, desk)
        image = recipe.image
        rules = replace(image, pdq=image.pdq or restricted.needs_pdq)
        before = desk.progress
        outcome = await download_batch(
            read_payload(batch.payload),
            job_id=batch.job_id,
            subset=batch.subset,
            output=batch.output,
            store=desk.store,
            rules=rules,
            restricted=restricted,
            policy=self.policy,
            max_attempts=batch.max_tries,
            on_progress=lambda done: desk.advance(before + done - desk.progress),
            stop=desk.stop,
            decoders=self.decoders,
            fleet=desk.fleet,
            robots=self.robots,
            extra=recipe.extra,
        )
        await desk.call(
            desk.session.complete,
            batch,
            {
                "finished": dict(outcome.finished),
                "again": outcome.again,
                "later": outcome.later,
                "returned": outcome.returned,
                "samples": outcome.samples,
                "bytes": outcome.bytes,
                "tar_bytes": await trio.to_thread.run_sync(desk.store.size, f"{batch.output}.tar"),
                "hosts": {"asked": outcome.hosts_asked, "refused": outcome.hosts_refused},
                "refused": desk.fleet.take_refusals(),
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
