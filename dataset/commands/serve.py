"""`dataset serve`: search indexes over HTTP."""

import asyncio
import logging
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.commands import serve_options
from dataset.commands.options import StoreOption, messages, needs_extra
from dataset.commands.releases import is_release, open_named_release
from dataset.commands.serve_files import check_exports, check_page, read_masks, read_ratings, read_token
from dataset.commands.served_indexes import open_searched, trace
from dataset.store.store import Store

if TYPE_CHECKING:
    from dataset.search.indexes import SearchedIndex


def serve_command(
    indexed: serve_options.IndexedArgument,
    store: StoreOption,
    port: serve_options.PortOption = 1234,
    host: serve_options.HostOption = "127.0.0.1",
    index_model: serve_options.IndexModelOption = None,
    model: serve_options.ModelOption = None,
    pretrained: serve_options.PretrainedOption = None,
    device: serve_options.DeviceOption = "cpu",
    fetcher: serve_options.FetcherOption = None,
    column: serve_options.ColumnOption = None,
    mask: serve_options.MaskOption = None,
    aesthetic: serve_options.AestheticOption = None,
    safe: serve_options.SafeOption = True,
    always_safe: serve_options.AlwaysSafeOption = False,
    page: serve_options.PageOption = None,
    exports: serve_options.ExportsOption = None,
    reports: serve_options.ReportsOption = False,
    operator_token: serve_options.OperatorTokenOption = None,
    cors: serve_options.CorsOption = None,
    per_second: serve_options.PerSecondOption = 20.0,
    burst: serve_options.BurstOption = 100,
    proxy: serve_options.ProxyOption = None,
    threads: serve_options.ThreadsOption = None,
    log_queries: serve_options.LogQueriesOption = False,
) -> None:
    """Serve the search page, Shoal's HTTP API and clip-retrieval's, until Ctrl-C.

    Without --model, indexes can be searched by id and by vector only.
    """
    with needs_extra("index"):
        from dataset.search.run import RunOptions, run
    from dataset.search.clip_retrieval import DEFAULT_COLUMNS
    from dataset.search.encoder import EncoderOptions
    from dataset.search.options import SiteOptions
    from dataset.search.reports import Reports

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("shoal").setLevel(logging.INFO)
    engines: dict[str, SearchedIndex] = {}
    releases: dict[str, str] = {}
    for one in indexed:
        engine = open_searched(one, store, index_model, {*engines})
        engines[engine.name] = engine
        if is_release(one):
            releases[engine.name] = one
    site_options = SiteOptions(
        columns=(*DEFAULT_COLUMNS, *(column or ())),
        ratings=read_ratings(aesthetic) if aesthetic else None,
        cors=tuple(cors or ()),
        per_second=per_second,
        burst=burst,
        page=check_page(page) if page else None,
        operator_token=read_token(operator_token) if operator_token else None,
        log_queries=log_queries,
        exports=check_exports(exports) if exports else None,
        trace=partial(trace, releases, store),
        releases={name: partial(open_named_release, one, store, writable=False) for name, one in releases.items()},
        reports=Reports(Store.open(store)) if reports else None,
    )
    options = RunOptions(
        host=host,
        port=port,
        proxies=tuple(proxy or ()),
        fetcher=fetcher,
        encoder=EncoderOptions(model, pretrained, store, device) if model else None,
        hidden=read_masks(mask or []),
        deny=Store.open(store, writable=False) if releases or Path(store).is_dir() else None,
        threads=threads or len(os.sched_getaffinity(0)),
        safe=safe,
        may_leave_safe=not always_safe,
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(run(engines, options, site_options, partial(messages.print, highlight=False)))
