"""A trial: hostile pictures are served on loopback and downloaded as a batch; each must have an outcome.

Raises: AssertionError when a picture has no outcome, or one that a picture cannot have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

import trio

from dataset.pictures.outcomes import PICTURE_FAULTS, Outcome
from dataset.recipe.image_rules import ImageRules
from dataset.store.store import Store
from tests.workers.fetching.odd_web import odd_web, response
from workers.download.batch import BatchJob, download_batch
from workers.download.decoder_pool import Decoders
from workers.fetching.policy import FetchPolicy

OUTCOMES = PICTURE_FAULTS | {Outcome.SUCCESS}


@dataclass(frozen=True, slots=True)
class Link:
    position: int
    url: str
    pack: int = 1
    pack_row: int = 0
    attempt: int = 1
    language: str | None = None
    text: str = "a caption"
    extra: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """The outcome of a picture."""

    outcome: Outcome
    reason: str | None


async def try_pictures(pictures: Sequence[bytes], rules: ImageRules, store: Store, decoders: Decoders) -> list[End]:
    """Download the pictures and return how each ended, in their order."""

    async def serve(stream: trio.abc.Stream, head: bytes) -> None:
        number = int(head.split(b" ")[1][1:])
        await stream.send_all(response(pictures[number]))

    async with odd_web({"*": serve}) as web:
        policy = FetchPolicy(
            allow_networks=(ip_network("127.0.0.0/8"),), allow_ports=(web.port,), per_host=16, timeout_seconds=120.0
        )
        job = BatchJob(
            [Link(number, web.url(f"/{number}")) for number in range(len(pictures))],
            job_id=1,
            subset="en",
            output="hostile",
            store=store,
            rules=rules,
            policy=policy,
            max_attempts=1,
            on_progress=lambda done: None,
        )
        outcome = await download_batch(job, trio.Event(), decoders)
    rows = store.read_table("hostile.parquet", ["key", "outcome", "error_message"]).to_pylist()
    assert [int(row["key"][-5:]) for row in rows] == list(range(len(pictures)))
    ends = [End(Outcome(row["outcome"]), row["error_message"]) for row in rows]
    strange = {end.outcome for end in ends} - OUTCOMES
    assert not strange, f"no picture ends as {strange}"
    assert outcome.finished.total() == len(pictures)
    return ends
