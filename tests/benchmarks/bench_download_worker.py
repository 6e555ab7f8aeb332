"""Shoal's side of bench_download, in a separate process: `download_batch` as the worker calls it, without a tracker."""

import os
import sys
from dataclasses import dataclass
from ipaddress import ip_network

import trio

from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.store.store import Store
from tests.benchmarks.bench_download_slow import LINKS, slow_url
from tests.benchmarks.bench_download_web import picture_url
from tests.benchmarks.memory import tree_pss
from workers.download.batch import BatchJob, download_batch
from workers.download.decoder_pool import Decoders
from workers.fetching.policy import FetchPolicy

RULES = {
    "no_reencode": ImageRules(resize_mode=ResizeMode.NO, reencode=False, min_bytes=0),
    "resize_256": ImageRules(min_bytes=0),
}


@dataclass(frozen=True, slots=True)
class Link:
    position: int
    url: str
    pack: int = 1
    pack_row: int = 0
    attempt: int = 1
    extra: str = ""
    language: str | None = "en"
    text: str = "a caption"


def main() -> None:
    _, folder, mode, *numbers = sys.argv
    port, *others = map(int, numbers)
    store = Store.open(folder)
    loopback = (ip_network("127.0.0.0/8"),)
    if mode == "slow":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one vCPU
        names = (f"127.0.0.1:{others[0]}",)
        policy = FetchPolicy(allow_networks=loopback, allow_ports=(port,), concurrency=512, nameservers=names)
        trio.run(download, store, "resize_256", policy, [slow_url(port, n) for n in range(LINKS)], 1)
        return
    links, connections, batches = others
    policy = FetchPolicy(allow_networks=loopback, allow_ports=(port,), concurrency=connections, per_host=connections)
    trio.run(download, store, mode, policy, [picture_url(port, n) for n in range(links)], batches)


async def download(store: Store, mode: str, policy: FetchPolicy, urls: list[str], batches: int) -> None:
    with Decoders() as decoders:
        for batch in range(batches):
            job = BatchJob(
                [Link(number, url) for number, url in enumerate(urls)],
                job_id=batch,
                subset="en",
                output=f"shards/{batch}",
                store=store,
                rules=RULES[mode],
                policy=policy,
                max_attempts=1,
                on_progress=lambda _: None,
            )
            await download_batch(job, trio.Event(), decoders)
            print(f"batch {batch} pss_mib {tree_pss(os.getpid()) / 2**20:.1f}")


if __name__ == "__main__":
    main()
