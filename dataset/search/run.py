"""One run of the server: what it consists of, in the order in which it starts and ends."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.index.lookup import set_threads
from dataset.search.allocator import map_large_blocks
from dataset.search.encoder import Encoder, EncoderOptions, LoadedModel
from dataset.search.engine import Engine, Ids
from dataset.search.errors import ServeError
from dataset.search.fetcher_client import FetcherClient
from dataset.search.metrics import Metrics
from dataset.search.options import SiteOptions
from dataset.search.screen import Screen
from dataset.search.server import http_server, listen, run_server
from dataset.search.service import ServedIndex, Service
from dataset.search.site import make_site
from dataset.search.terms import Sources
from dataset.search.work_queue import WorkQueue
from dataset.store.store import Store

REFRESH_SECONDS = 10.0
"""Maximum time until a new deny list is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How the server runs."""

    host: str
    port: int
    proxies: Sequence[str] = ()
    """Addresses whose X-Forwarded-For is believed."""
    fetcher: Path | None = None
    """The socket of `worker fetcher`."""
    encoder: EncoderOptions | None = None
    hidden: Ids
    """Rows that are never shown."""
    deny: Store | None = None
    """The store with deny lists."""
    threads: int
    """Threads that search."""
    safe: bool = True
    may_leave_safe: bool = True


async def run(
    engines: Mapping[str, Engine], options: RunOptions, site_options: SiteOptions, say: Callable[[str], None]
) -> None:
    """Serve indexes until a signal; `say` gets a line for each index, and one with the address.

    Raises: DatasetError when the address is taken, the model cannot be loaded, or it made none of the indexes.
    """
    map_large_blocks()
    listening = listen(options.host, options.port)
    metrics = Metrics()
    releases = sorted({engine.release for engine in engines.values()} - {""})
    screen = Screen(options.hidden, options.deny, releases)
    screen.refresh()
    encoder = Encoder(options.encoder, metrics) if options.encoder else None
    queue = WorkQueue(options.threads, metrics, begin=lambda: set_threads(1))  # a thread for each core searches
    served = {name: ServedIndex(engine, screen) for name, engine in engines.items()}
    sources = Sources(encoder, FetcherClient(options.fetcher), metrics)
    service = Service(served, sources, queue, metrics, options.safe, options.may_leave_safe)
    site = make_site(service, site_options)
    try:
        if encoder is not None:
            check_models(engines, await encoder.start())
        for name, engine in engines.items():
            say(f"{name}: {len(engine):,} rows, {engine.dimensions} dimensions")
        place = f"[{options.host}]" if ":" in options.host else options.host
        say(f"http://{place}:{listening.getsockname()[1]}/")
        await run_server(http_server(site.app, options.proxies), listening, service.refresh, REFRESH_SECONDS)
    finally:
        if encoder is not None:
            await encoder.close()
        await asyncio.to_thread(queue.close)
        await asyncio.to_thread(site.close)
        listening.close()


def check_models(engines: Mapping[str, Engine], loaded: LoadedModel) -> None:
    """Raise ServeError when no index was made with the model."""
    models = {engine.model_sha256 for engine in engines.values()}
    if loaded.sha256 not in models and "" not in models:
        named = ", ".join(f"{engine.model} {engine.model_sha256[:12]}" for engine in engines.values())
        raise ServeError(
            f"The model {loaded.model} {loaded.sha256[:12]} made none of the indexes ({named}): give the model of an "
            "index with --model."
        )
