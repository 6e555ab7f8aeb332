"""The command `worker`: one kind of work a process. Logs go to stderr, one line a job; exit 0, 1 (failed), 2 (usage).

A download worker starts without torch: each stage is imported by its own subcommand.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

import trio
import typer

from dataset.errors import DatasetError
from dataset.store import Store
from tracker.database import connect, database_url
from tracker.errors import TrackerError
from tracker.migrate import require_head
from tracker.settings import Settings
from workers import metrics, progress_bar
from workers.desk import Desk
from workers.errors import CannotWork, WorkerError
from workers.extract import Extract
from workers.fetching.policy import PROFILES, FetchPolicy, PolicyError, Profile
from workers.ingest import Ingest
from workers.loop import Patience, Stage, run
from workers.processes import log_format, own_port, supervise
from workers.watched_session import WatchedSession

app = typer.Typer(
    help="Work for the swarm.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Once = Annotated[bool, typer.Option("--once", help="Claim once, work, and end.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, envvar="SHOAL_METRICS_PORT", help="Tell Prometheus here; 0: a port that is free."),
]
MetricsHost = Annotated[str, typer.Option(envvar="SHOAL_METRICS_HOST", help="Where that port is.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the GPU if there is one.")]
PrecisionName = Annotated[
    str | None,
    typer.Option("--precision", help="float32, float16 or bfloat16; default: float16 on a GPU, else float32."),
]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Have the image tower compiled, where a compiler is; takes a minute at first.")
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples at once; default: 1024 on a GPU, 32 on a CPU.")]
DecoderProcesses = Annotated[
    int | None,
    typer.Option("--decoders", min=0, help="Processes that decode; default: for a GPU one a core, else none."),
]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="End when nothing can come to the queue any more.")]
Processes = Annotated[int, typer.Option(min=1, max=1_024, help="Worker processes, under one parent.")]


def main() -> None:
    """Run the command; an error is one sentence on stderr and exit code 1."""
    try:
        app()
    except (TrackerError, DatasetError, WorkerError) as error:
        sys.stderr.write(f"worker: {error}\n")
        raise SystemExit(1) from None
    except BaseExceptionGroup as group:
        known, unknown = group.split((TrackerError, DatasetError, WorkerError))
        if unknown is not None or known is None:
            raise
        sys.stderr.write(f"worker: {_first(known)}\n")
        raise SystemExit(1) from None


@app.command()
def extract(
    once: Once = False,
    until_idle: UntilIdle = False,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """WAT files in, packs of candidates out."""
    _work("extract", lambda: nullcontext(Extract()), Patience(once, until_idle), processes, metrics_port, metrics_host)


@app.command()
def ingest(
    once: Once = False,
    until_idle: UntilIdle = False,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Packs and finished lists in, new candidates into the pool."""
    _work("ingest", lambda: nullcontext(Ingest()), Patience(once, until_idle), processes, metrics_port, metrics_host)


@app.command()
def download(
    once: Once = False,
    until_idle: UntilIdle = False,
    user_agent: Annotated[
        str | None,
        typer.Option(envvar="SHOAL_USER_AGENT", help="Name/version (+URL where a site's owner reaches you)."),
    ] = None,
    allow_network: Annotated[
        list[str] | None, typer.Option(metavar="CIDR", help="Let in although it is not public; may be repeated.")
    ] = None,
    allow_port: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Let in beside 80 and 443; may be repeated.")
    ] = None,
    timeout_seconds: Annotated[float, typer.Option("--timeout", help="For one link, everything included.")] = 20.0,
    concurrency: Annotated[int, typer.Option(help="Links under way at once.")] = 256,
    profile: Annotated[
        Profile, typer.Option(help="How hosts are treated: fast (4 at once), or polite (one in 2 s, robots.txt).")
    ] = Profile.FAST,
    robots: Annotated[
        bool | None, typer.Option("--robots/--no-robots", help="Keep to robots.txt; default: the profile's.")
    ] = None,
    per_host: Annotated[
        int | None, typer.Option(help="Requests under way at once to one host; default: the profile's.")
    ] = None,
    host_spacing: Annotated[
        float | None, typer.Option(help="Seconds between two requests to one host, at least; default: the profile's.")
    ] = None,
    per_address: Annotated[
        int | None,
        typer.Option(help="The same to one address, whatever hosts share it; 0: any number."),
    ] = None,
    address_spacing: Annotated[
        float | None, typer.Option(help="Seconds between two requests to one address; default: the profile's.")
    ] = None,
    nameserver: Annotated[list[str] | None, typer.Option(metavar="ADDRESS[:PORT]", help="DNS resolver.")] = None,
    verify_tls: Annotated[bool, typer.Option(help="Refuse certificates that do not vouch for the host.")] = True,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Batches of links in, shards of images out."""
    from workers.decoding import Decoders
    from workers.download import Download

    wishes = {
        "user_agent": user_agent or None,
        "robots": robots,
        "per_host": per_host,
        "per_address": per_address,
        "host_spacing_seconds": host_spacing,
        "address_spacing_seconds": address_spacing,
    }
    settings = PROFILES[profile] | {name: value for name, value in wishes.items() if value is not None}
    try:
        policy = FetchPolicy(
            **settings,  # type: ignore[arg-type]  # keys of PROFILES and those named above
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            allow_networks=tuple(_network(text) for text in allow_network or ()),
            allow_ports=tuple(allow_port or ()),
            verify_tls=verify_tls,
            nameservers=tuple(nameserver or ()),
        )
    except PolicyError as error:
        raise typer.BadParameter(str(error)) from error

    @contextmanager
    def stage() -> Iterator[Download]:
        with Decoders() as decoders:
            yield Download(policy, decoders)

    _work("download", stage, Patience(once, until_idle), processes, metrics_port, metrics_host)


@app.command("filter")
def filter_shards(
    once: Once = False,
    until_idle: UntilIdle = False,
    processes: Processes = 1,
    device: Device = None,
    precision: PrecisionName = None,
    compiled: Compiled = False,
    batch_size: BatchSize = None,
    decoders: DecoderProcesses = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Shards in, parts of the pairs that passed out."""
    options = (precision, device, compiled, batch_size, decoders)
    _run_models("filter", *options, Patience(once, until_idle), processes, metrics_port, metrics_host)


@app.command()
def embed(
    once: Once = False,
    until_idle: UntilIdle = False,
    processes: Processes = 1,
    device: Device = None,
    precision: PrecisionName = None,
    compiled: Compiled = False,
    batch_size: BatchSize = None,
    decoders: DecoderProcesses = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Parts, or tars of anyone's, in; embeddings by a second model out (`tracker embed` says of what)."""
    options = (precision, device, compiled, batch_size, decoders)
    _run_models("embed", *options, Patience(once, until_idle), processes, metrics_port, metrics_host)


def _run_models(
    kind: Literal["filter", "embed"],
    precision: str | None,
    device: str | None,
    compiled: bool,
    batch_size: int | None,
    decoders: int | None,
    patience: Patience,
    processes: int,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Work with a model on a device: filter or embed."""
    try:
        from dataset.pipeline import Pipeline, decoder_processes
        from dataset.towers import Precision
        from workers.embed import Embed
        from workers.filter import Filter
        from workers.loading import Loader
    except ModuleNotFoundError as error:
        raise CannotWork(f"{error.name} is not installed: install Shoal with its extra [models]") from error
    if precision is not None and precision not in list(Precision):
        raise typer.BadParameter(f"{precision!r} is no precision: give {', '.join(Precision)}")

    loader = Loader(device, Precision(precision) if precision else None, compiled)

    @contextmanager
    def stage() -> Iterator[Filter | Embed]:
        at_decoders = decoder_processes(device) if decoders is None else decoders
        make = Filter if kind == "filter" else Embed
        with Pipeline(at_decoders, batch_size, metrics.model_busy) as pipeline:
            yield make(pipeline, loader)

    _work(kind, stage, patience, processes, metrics_port, metrics_host)


def _work(
    kind: str,
    opened: Callable[[], AbstractContextManager[Stage[Any]]],
    patience: Patience,
    processes: int,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    logging.basicConfig(level=logging.INFO, format=log_format(os.environ), stream=sys.stderr)
    settings = Settings.from_environment()
    url = database_url(settings)
    if processes > 1:
        raise typer.Exit(supervise(processes, sys.argv[1:]))
    with connect(url) as connection:
        require_head(connection)
    store = Store.open(settings.store)
    with metrics.told(kind, own_port(metrics_port, os.environ), metrics_host):
        session = WatchedSession.register(url, kind, token=settings.token)
        try:
            trio.run(_run, opened, session, store, patience)
        finally:
            session.close()


async def _run(
    opened: Callable[[], AbstractContextManager[Stage[Any]]], session: WatchedSession, store: Store, patience: Patience
) -> None:
    desk = Desk(session, store)
    with opened() as stage, progress_bar.shown(desk, session):
        await run(stage, desk, patience)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no network: give CIDR, e.g. 127.0.0.0/8") from error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
