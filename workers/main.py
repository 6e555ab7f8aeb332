"""The command `worker`: a subcommand per stage. Logs go to stderr, one line per job; exit 0, 1 (failed), 2 (usage).

Each subcommand imports its own stage, so that help is quick and a download worker starts without torch.
"""

import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dataset.command_help import PlainGroup, Version
from dataset.errors import DatasetError
from tracker.errors import TrackerError
from workers.errors import CannotWork, WorkerError
from workers.fetching.policy import PROFILES, FetchPolicy, PolicyError, Profile
from workers.options import (
    AddressSpacing,
    AllowedNetworks,
    AllowedPorts,
    BatchSize,
    Compiled,
    Concurrency,
    DecoderProcesses,
    Device,
    EndWhenDone,
    HostSpacing,
    KeepToRobots,
    LinkTimeout,
    Memory,
    MetricsHost,
    MetricsPort,
    Nameservers,
    Once,
    OptOutWords,
    PerAddress,
    PerHost,
    PrecisionName,
    Processes,
    ProfileName,
    Scratch,
    UntilIdle,
    UserAgent,
    VerifyTls,
)
from workers.runtime import metrics
from workers.runtime.supervisor import log_format

if TYPE_CHECKING:
    from workers.runtime.process import WorkerProcess

app = typer.Typer(cls=PlainGroup, no_args_is_help=True, pretty_exceptions_enable=False)

MACHINE = "Everything on one machine"
STAGES = "One stage"
SEARCH = "Search"


@app.callback()
def worker(version: Version = False) -> None:
    """Run the stages of the swarm. SHOAL_DATABASE_URL names the tracker's database, SHOAL_STORE the store."""
    del version  # printed by its callback


def main() -> None:
    """Run the command; an error is one sentence on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal cannot show becomes ?
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


@app.command("all", rich_help_panel=MACHINE)
def run_every_stage(
    until_idle: EndWhenDone = False,
    user_agent: UserAgent = None,
    device: Device = None,
    downloads: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1_024, help="Download processes. Default: one per core.")
    ] = None,
    profile: ProfileName = Profile.FAST,
    opt_out: OptOutWords = None,
    allow_network: AllowedNetworks = None,
    allow_port: AllowedPorts = None,
    nameserver: Nameservers = None,
) -> None:
    """Run extract, ingest, download and filter under one display."""
    from workers.all_stages import run_all, stage_commands

    every = ["--until-idle"] if until_idle else []
    download = ["--profile", profile.value]
    download += ["--user-agent", user_agent] if user_agent else []
    repeated = {"allow-network": allow_network, "allow-port": allow_port, "nameserver": nameserver, "opt-out": opt_out}
    for name, values in repeated.items():
        download += [f"--{name}={value}" for value in values or ()]
    arguments = {stage: [*every] for stage in ("extract", "ingest")}
    arguments |= {"download": [*every, *download], "filter": [*every, *(["--device", device] if device else [])]}
    cores = len(os.sched_getaffinity(0))
    raise typer.Exit(run_all(stage_commands(arguments, downloads or cores)))


@app.command(rich_help_panel=STAGES)
def extract(
    once: Once = False,
    until_idle: UntilIdle = False,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Turn WAT files into packs of candidates."""
    from workers.extract.stage import Extract

    process = _process(once, until_idle, processes, metrics_port, metrics_host)
    process.work("extract", lambda _settings: nullcontext(Extract()))


@app.command(rich_help_panel=STAGES)
def ingest(
    once: Once = False,
    until_idle: UntilIdle = False,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Add the new candidates of packs and link lists to the pool."""
    from workers.ingest.stage import Ingest

    process = _process(once, until_idle, processes, metrics_port, metrics_host)
    process.work("ingest", lambda _settings: nullcontext(Ingest()))


@app.command(rich_help_panel=STAGES)
def download(
    once: Once = False,
    until_idle: UntilIdle = False,
    user_agent: UserAgent = None,
    profile: ProfileName = Profile.FAST,
    robots: KeepToRobots = None,
    per_host: PerHost = None,
    host_spacing: HostSpacing = None,
    per_address: PerAddress = None,
    address_spacing: AddressSpacing = None,
    opt_out: OptOutWords = None,
    concurrency: Concurrency = 256,
    timeout_seconds: LinkTimeout = 20.0,
    nameserver: Nameservers = None,
    allow_network: AllowedNetworks = None,
    allow_port: AllowedPorts = None,
    verify_tls: VerifyTls = True,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Download batches of links into shards of pictures."""
    from workers.download.decoder_pool import Decoders
    from workers.download.host_rests import HostRests
    from workers.download.stage import Download
    from workers.fetching.resolve import RESOLV_CONF, system_resolv_conf

    overrides = {
        "user_agent": user_agent or None,
        "robots": robots,
        "per_host": per_host,
        "per_address": per_address,
        "host_spacing_seconds": host_spacing,
        "address_spacing_seconds": address_spacing,
        "opt_out_words": None if opt_out is None else frozenset(word.strip().lower() for word in opt_out) - {""},
    }
    settings = PROFILES[profile] | {name: value for name, value in overrides.items() if value is not None}
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
    def stage(settings: Mapping[str, Any]) -> Iterator[Download]:
        if not policy.nameservers:
            system_resolv_conf(RESOLV_CONF)  # warns of bad lines before the first batch
        with Decoders() as decoders:
            yield Download(policy, decoders, HostRests.from_settings(settings))

    _process(once, until_idle, processes, metrics_port, metrics_host).work("download", stage)


@app.command("filter", rich_help_panel=STAGES)
def filter_shards(
    once: Once = False,
    until_idle: UntilIdle = False,
    device: Device = None,
    precision: PrecisionName = None,
    compiled: Compiled = False,
    batch_size: BatchSize = None,
    decoders: DecoderProcesses = None,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Score shards with CLIP; write the pairs that pass as parts."""
    with_model = ModelUse(device, precision, compiled, batch_size, decoders)
    _run_models("filter", with_model, _process(once, until_idle, processes, metrics_port, metrics_host))


@app.command(rich_help_panel=STAGES)
def embed(
    once: Once = False,
    until_idle: UntilIdle = False,
    device: Device = None,
    precision: PrecisionName = None,
    compiled: Compiled = False,
    batch_size: BatchSize = None,
    decoders: DecoderProcesses = None,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Embed pairs with a second model; `tracker embed` adds the jobs."""
    with_model = ModelUse(device, precision, compiled, batch_size, decoders)
    _run_models("embed", with_model, _process(once, until_idle, processes, metrics_port, metrics_host))


@app.command(rich_help_panel=SEARCH)
def fetcher(
    socket: Annotated[Path, typer.Option("--socket", help="The Unix socket that `dataset serve --fetcher` names.")],
    user_agent: UserAgent = None,
    per_address: PerAddress = 4,
    concurrency: Concurrency = 16,
    timeout_seconds: LinkTimeout = 10.0,
    nameserver: Nameservers = None,
    allow_network: AllowedNetworks = None,
    allow_port: AllowedPorts = None,
    verify_tls: VerifyTls = True,
) -> None:
    """Fetch pictures for the search server, only from public addresses."""
    from dataset.search.fetcher_wire import MAX_PICTURE_BYTES
    from workers.fetcher import run_fetcher

    logging.basicConfig(format=log_format(os.environ), stream=sys.stderr)
    logging.getLogger("shoal").setLevel(logging.INFO)
    try:
        policy = FetchPolicy(
            **({"user_agent": user_agent} if user_agent else {}),  # type: ignore[arg-type]
            concurrency=concurrency,
            per_address=per_address or 0,
            timeout_seconds=timeout_seconds,
            max_bytes=MAX_PICTURE_BYTES,
            # opt-outs reserve pictures from datasets; a picture that is only searched with is not kept
            opt_out_words=frozenset(),
            allow_networks=tuple(_network(text) for text in allow_network or ()),
            allow_ports=tuple(allow_port or ()),
            verify_tls=verify_tls,
            nameservers=tuple(nameserver or ()),
        )
    except PolicyError as error:
        raise typer.BadParameter(str(error)) from error
    run_fetcher(socket, policy)


@app.command(rich_help_panel=STAGES)
def index(
    once: Once = False,
    until_idle: UntilIdle = False,
    scratch: Scratch = None,
    memory: Memory = None,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Build the index of a release; `tracker index` begins it."""
    from workers.index import Index

    stage = Index(_scratch(scratch), _bytes(memory))
    process = _process(once, until_idle, processes, metrics_port, metrics_host)
    process.work("index", lambda _settings: nullcontext(stage))


@app.command(rich_help_panel=STAGES)
def dedup(
    once: Once = False,
    until_idle: UntilIdle = False,
    scratch: Scratch = None,
    memory: Memory = None,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Search a release for near-duplicates; `tracker dedup` begins it."""
    from workers.dedup import Dedup

    stage = Dedup(_scratch(scratch), _bytes(memory))
    process = _process(once, until_idle, processes, metrics_port, metrics_host)
    process.work("dedup", lambda _settings: nullcontext(stage))


@app.command(rich_help_panel=STAGES)
def tag(
    once: Once = False,
    until_idle: UntilIdle = False,
    scratch: Scratch = None,
    memory: Memory = None,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Tag a release with heads; `tracker tag` begins it."""
    from workers.tag import Tag

    stage = Tag(_scratch(scratch), _bytes(memory))
    process = _process(once, until_idle, processes, metrics_port, metrics_host)
    process.work("tag", lambda _settings: nullcontext(stage))


def _scratch(given: Path | None) -> Path:
    return given or Path(tempfile.gettempdir()) / "shoal-units"


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


@dataclass(frozen=True, slots=True)
class ModelUse:
    """The model options of the command line; None means the default of the device."""

    device: str | None
    precision: str | None
    compiled: bool
    batch_size: int | None
    decoders: int | None


def _run_models(kind: Literal["filter", "embed"], use: ModelUse, process: "WorkerProcess") -> None:
    """Run filter or embed with a model on a device."""
    try:
        from dataset.models.pipeline import Pipeline, decoder_processes
        from dataset.models.towers import Precision
        from workers.embed import Embed
        from workers.filter import Filter
        from workers.runtime.model_cache import ModelCache
    except ModuleNotFoundError as error:
        raise CannotWork(f"{error.name} is not installed: install Shoal with its extra [models]") from error
    if use.precision is not None and use.precision not in list(Precision):
        raise typer.BadParameter(f"{use.precision!r} is not a precision: use {', '.join(Precision)}")

    model_cache = ModelCache(use.device, Precision(use.precision) if use.precision else None, use.compiled)

    @contextmanager
    def stage(_settings: Mapping[str, Any]) -> Iterator[Filter | Embed]:
        decoders = decoder_processes(use.device) if use.decoders is None else use.decoders
        make = Filter if kind == "filter" else Embed
        with Pipeline(decoders, use.batch_size, metrics.model_busy) as pipeline:
            yield make(pipeline, model_cache)

    process.work(kind, stage)


def _process(
    once: bool, until_idle: bool, processes: int, metrics_port: int | None, metrics_host: str
) -> "WorkerProcess":
    from workers.runtime.loop import StopWhen
    from workers.runtime.process import WorkerProcess

    return WorkerProcess(StopWhen(once, until_idle), processes, metrics_port, metrics_host)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a network: use CIDR, e.g. 127.0.0.0/8") from error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
