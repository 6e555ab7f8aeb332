"""`dataset serve`: search indexes over HTTP."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from dataset.commands.index import find_index
from dataset.commands.options import StoreOption, messages, needs_extra
from dataset.commands.releases import is_release, open_named_release
from dataset.errors import DatasetError
from dataset.formats.index_files import SearchIndexError
from dataset.store.store import Store

if TYPE_CHECKING:
    from dataset.index.lookup import Index
    from dataset.search.encoder import EncoderOptions
    from dataset.search.indexes import SearchedIndex
    from dataset.search.options import SiteOptions

REFRESH_SECONDS = 10.0
"""Maximum time until a new deny list is in force."""

MODEL, WHAT, WHO = "Texts and pictures", "What is shown", "Clients"


class ServeError(DatasetError):
    """The server cannot be started with these options."""


def serve_command(
    indexed: Annotated[
        list[str], typer.Argument(metavar="RELEASE|INDEX…", help="Releases with an index, or folders of indexes.")
    ],
    store: StoreOption,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="TCP port; 0 picks a free one.")] = 1234,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    index_model: Annotated[
        str | None, typer.Option(help="Folder below index/ of a release; not needed if there is one.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(rich_help_panel=MODEL, help="Model of texts and pictures, as `dataset embed --model` names it."),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(rich_help_panel=MODEL, help="Weights: open_clip's tag, a file, a folder, or store:models/NAME."),
    ] = None,
    device: Annotated[
        str, typer.Option(rich_help_panel=MODEL, help="Device of the model: cpu, cuda or cuda:N.")
    ] = "cpu",
    fetcher: Annotated[
        Path | None,
        typer.Option(rich_help_panel=MODEL, help="Socket of `worker fetcher`; without it, no pictures by URL."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=WHAT, help="Further column of rows in clip-retrieval's answers. Repeatable."),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=WHAT, help="Parquet file with a column id, whose rows are never shown. Repeatable."
        ),
    ] = None,
    safe: Annotated[
        bool, typer.Option("--safe/--no-safe", rich_help_panel=WHAT, help="Leave out unsafe rows by default.")
    ] = True,
    always_safe: Annotated[
        bool, typer.Option("--always-safe", rich_help_panel=WHAT, help="Clients cannot switch off safe mode.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(rich_help_panel=WHAT, help="Folder to serve instead of the search page.")
    ] = None,
    exports: Annotated[
        Path | None, typer.Option(rich_help_panel=WHAT, help="Folder for exports. Default: a temporary one.")
    ] = None,
    reports: Annotated[
        bool,
        typer.Option("--reports", rich_help_panel=WHO, help="Accept reports of rows: takedown requests in the store."),
    ] = False,
    operator_token: Annotated[
        Path | None,
        typer.Option(rich_help_panel=WHO, help="File with a token for tracing rows and deciding on reports."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", rich_help_panel=WHO, help="Site whose pages may read answers; * for all."),
    ] = None,
    per_second: Annotated[
        float, typer.Option(min=0, rich_help_panel=WHO, help="Requests per second and address; 0 means no limit.")
    ] = 20.0,
    burst: Annotated[int, typer.Option(min=1, rich_help_panel=WHO, help="Concurrent requests per address.")] = 100,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", rich_help_panel=WHO, help="Trust X-Forwarded-For from this address. Repeatable."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Search threads.")] = None,
    log_queries: Annotated[bool, typer.Option("--log-queries", help="Log the texts of queries.")] = False,
) -> None:
    """Serve the search page, Shoal's HTTP API and clip-retrieval's, until Ctrl-C.

    Without --model, indexes can be searched by id and by vector only.
    """
    with needs_extra("index"):
        import dataset.index.lookup  # noqa: F401 - it needs faiss
        from dataset.search.options import SiteOptions
    from dataset.search.clip_retrieval import DEFAULT_COLUMNS
    from dataset.search.encoder import EncoderOptions
    from dataset.search.reports import Reports

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("shoal").setLevel(logging.INFO)
    options = SiteOptions(
        columns=(*DEFAULT_COLUMNS, *(column or ())),
        cors=tuple(cors or ()),
        per_second=per_second,
        burst=burst,
        page=_folder(page) if page else None,
        operator_token=_token(operator_token) if operator_token else None,
        log_queries=log_queries,
        exports=_writable(exports) if exports else None,
        trace=lambda name, row_id: _trace(releases, store, name, row_id),
        reports=Reports(Store.open(store)) if reports else None,
    )
    releases: dict[str, str] = {}
    engines: dict[str, SearchedIndex] = {}
    for one in indexed:
        engine = open_searched(one, store, index_model, {*engines})
        engines[engine.name] = engine
        if is_release(one):
            releases[engine.name] = one
    deny = Store.open(store, writable=False) if releases or Path(store).is_dir() else None
    hidden = read_masks(mask or [])
    encoder = EncoderOptions(model, pretrained, store, device) if model else None
    serving = _serve(
        engines, options, encoder, hidden, deny, host=host, port=port, proxies=proxy or [], fetcher=fetcher,
        threads=threads or len(os.sched_getaffinity(0)), safe=safe, may_leave_safe=not always_safe,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):
        asyncio.run(serving)


async def _serve(
    engines: Mapping[str, "SearchedIndex"],
    options: "SiteOptions",
    encoder_options: "EncoderOptions | None",
    hidden: Any,
    deny: Store | None,
    *,
    host: str,
    port: int,
    proxies: Sequence[str],
    fetcher: Path | None,
    threads: int,
    safe: bool,
    may_leave_safe: bool,
) -> None:
    from dataset.index.lookup import set_threads
    from dataset.search.encoder import Encoder
    from dataset.search.fetcher_client import FetcherClient
    from dataset.search.metrics import Metrics
    from dataset.search.screen import Screen
    from dataset.search.server import http_server, listen, run_server
    from dataset.search.service import ServedIndex, Service
    from dataset.search.site import make_site
    from dataset.search.terms import Sources
    from dataset.search.work_queue import WorkQueue

    listening = listen(host, port)
    metrics = Metrics()
    screen = Screen(hidden, deny)
    screen.refresh()
    encoder = Encoder(encoder_options, metrics) if encoder_options else None
    queue = WorkQueue(threads, metrics, begin=lambda: set_threads(1))  # a thread for each core searches
    served = {name: ServedIndex(engine, screen) for name, engine in engines.items()}
    service = Service(served, Sources(encoder, FetcherClient(fetcher), metrics), queue, metrics, safe, may_leave_safe)
    site = make_site(service, options)

    try:
        if encoder is not None:
            await encoder.start()
            check_models(engines, encoder.loaded)
        for name, engine in engines.items():
            messages.print(f"{name}: {len(engine):,} rows, {engine.dimensions} dimensions", highlight=False)
        place = f"[{host}]" if ":" in host else host
        messages.print(f"http://{place}:{listening.getsockname()[1]}/", highlight=False)
        await run_server(http_server(site.app, proxies), listening, service.refresh, REFRESH_SECONDS)
    finally:
        if encoder is not None:
            await encoder.close()
        await asyncio.to_thread(queue.close)
        await asyncio.to_thread(site.exports.close)
        listening.close()


def open_searched(indexed: str, store: str, model: str | None, taken: set[str]) -> "SearchedIndex":
    """Open the indexes of the pictures' and the captions' vectors of a release, or one folder's.

    Raises: SearchIndexError when there is none.
    """
    from dataset.index.lookup import open_index
    from dataset.search.indexes import SearchedIndex

    found: dict[str, Index] = {}
    missing: SearchIndexError | None = None
    for modality in ("image", "text"):
        try:
            index = open_index(find_index(indexed, store, model, modality))
        except SearchIndexError as error:
            missing = missing or error
            continue
        found.setdefault(index.record.modality, index)
    if not found:
        assert missing is not None
        raise missing
    record = next(iter(found.values())).record
    name = record.name if record.name not in taken else f"{record.name}-{record.model.name}"
    if name in taken:
        raise SearchIndexError(f"Two of the indexes are named {name}: serve one of them at another --port.")
    return SearchedIndex(name, found)


def check_models(engines: Mapping[str, "SearchedIndex"], loaded: Any) -> None:
    """Raise ServeError when no index was made with the model."""
    models = {engine.model_sha256 for engine in engines.values()}
    if loaded.sha256 not in models and "" not in models:
        named = ", ".join(f"{engine.model} {engine.model_sha256[:12]}" for engine in engines.values())
        raise ServeError(
            f"The model {loaded.model} {loaded.sha256[:12]} made none of the indexes ({named}): give the model of an "
            "index with --model."
        )


def read_masks(paths: Sequence[Path]) -> Any:
    """Return the ids of all masks, (N,) int64.

    Raises: ServeError when a file cannot be read or has no column of integers named id.
    """
    found = [np.empty(0, np.int64)]
    for path in paths:
        try:
            ids = pq.read_table(path, columns=["id"])["id"].cast(pa.int64())
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ServeError(f"Cannot read the mask {path} ({error}): give a parquet file with a column id.") from error
        found.append(ids.drop_null().to_numpy())
    return np.unique(np.concatenate(found))


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"Cannot read the operator's token in {path} ({error}): give a text file.") from error
    if len(token) < 16:
        raise ServeError(f"The operator's token in {path} has {len(token)} characters: use 16 or more.")
    return token


def _folder(path: Path) -> Path:
    if not (path / "index.html").is_file():
        raise ServeError(f"{path} has no index.html: give --page the folder of a page.")
    return path


def _writable(path: Path) -> Path:
    if not (path.is_dir() and os.access(path, os.W_OK)):
        raise ServeError(f"{path} is not a writable folder: create it, or give another --exports.")
    return path


def _trace(releases: Mapping[str, str], store: str, name: str, row_id: int) -> dict[str, Any]:
    from dataset.publish.errors import PublishError
    from dataset.publish.trace import trace_row
    from dataset.search.errors import SearchError

    if name not in releases:
        raise SearchError(404, f"The index {name} is not of a release: its rows have no origin.")
    try:
        release = open_named_release(releases[name], store, writable=False)
        return asdict(trace_row(release, row_id, Store.open(store, writable=False)))
    except PublishError as error:
        raise SearchError(404, str(error)) from error
