"""The command `worker`: one kind of work a process. Logs go to stderr, one line a job; exit 0, 1 (failed), 2 (usage).

A download worker starts without torch: each stage is imported by its own subcommand.
"""

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal

import typer

from dataset.errors import DatasetError
from tracker.errors import TrackerError
from workers.errors import CannotWork, WorkerError
from workers.extract.stage import Extract
from workers.fetching.policy import PROFILES, FetchPolicy, PolicyError, Profile
from workers.ingest.stage import Ingest
from workers.options import (
    AddressSpacing,
    AllowedNetworks,
    AllowedPorts,
    BatchSize,
    Compiled,
    Concurrency,
    DecoderProcesses,
    Device,
    HostSpacing,
    KeepToRobots,
    LinkTimeout,
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
    UntilIdle,
    UserAgent,
    VerifyTls,
)
from workers.runtime import metrics
from workers.runtime.loop import StopWhen
from workers.runtime.process import WorkerProcess

app = typer.Typer(
    help="Work for the swarm.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


def main() -> None:
    """Run the command; an error is one sentence on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a character gets a ? for it
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
    running = WorkerProcess(StopWhen(once, until_idle), processes, metrics_port, metrics_host)
    running.work("extract", lambda _settings: nullcontext(Extract()))


@app.command()
def ingest(
    once: Once = False,
    until_idle: UntilIdle = False,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Packs and link lists in, new candidates into the pool."""
    running = WorkerProcess(StopWhen(once, until_idle), processes, metrics_port, metrics_host)
    running.work("ingest", lambda _settings: nullcontext(Ingest()))


@app.command()
def download(
    once: Once = False,
    until_idle: UntilIdle = False,
    user_agent: UserAgent = None,
    allow_network: AllowedNetworks = None,
    allow_port: AllowedPorts = None,
    timeout_seconds: LinkTimeout = 20.0,
    concurrency: Concurrency = 256,
    profile: ProfileName = Profile.FAST,
    robots: KeepToRobots = None,
    per_host: PerHost = None,
    host_spacing: HostSpacing = None,
    per_address: PerAddress = None,
    address_spacing: AddressSpacing = None,
    nameserver: Nameservers = None,
    opt_out: OptOutWords = None,
    verify_tls: VerifyTls = True,
    processes: Processes = 1,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = metrics.LOOPBACK,
) -> None:
    """Batches of links in, shards of images out."""
    from workers.download.decoder_pool import Decoders
    from workers.download.host_rests import HostRests
    from workers.download.stage import Download
    from workers.fetching.resolve import RESOLV_CONF, system_resolv_conf

    wishes = {
        "user_agent": user_agent or None,
        "robots": robots,
        "per_host": per_host,
        "per_address": per_address,
        "host_spacing_seconds": host_spacing,
        "address_spacing_seconds": address_spacing,
        "opt_out_words": None if opt_out is None else frozenset(word.strip().lower() for word in opt_out) - {""},
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
    def stage(settings: Mapping[str, Any]) -> Iterator[Download]:
        if not policy.nameservers:
            system_resolv_conf(RESOLV_CONF)  # what is wrong with it is said before the first batch
        with Decoders() as decoders:
            yield Download(policy, decoders, HostRests.from_settings(settings))

    WorkerProcess(StopWhen(once, until_idle), processes, metrics_port, metrics_host).work("download", stage)


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
    with_model = ModelUse(device, precision, compiled, batch_size, decoders)
    _run_models("filter", with_model, WorkerProcess(StopWhen(once, until_idle), processes, metrics_port, metrics_host))


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
    with_model = ModelUse(device, precision, compiled, batch_size, decoders)
    _run_models("embed", with_model, WorkerProcess(StopWhen(once, until_idle), processes, metrics_port, metrics_host))


@app.command("all")
def run_every_stage(
    until_idle: UntilIdle = False,
    user_agent: UserAgent = None,
    profile: ProfileName = Profile.FAST,
    allow_network: AllowedNetworks = None,
    allow_port: AllowedPorts = None,
    nameserver: Nameservers = None,
    opt_out: OptOutWords = None,
    device: Device = None,
    downloads: Annotated[
        int | None, typer.Option(min=1, max=1_024, help="Download processes; default: one for each core.")
    ] = None,
) -> None:
    """Run every stage on this machine, from WAT files to parts, with one display."""
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


@dataclass(frozen=True, slots=True)
class ModelUse:
    """How a worker uses a model, as it was asked; None: what suits the device."""

    device: str | None
    precision: str | None
    compiled: bool
    batch_size: int | None
    decoders: int | None


def _run_models(kind: Literal["filter", "embed"], use: ModelUse, running: WorkerProcess) -> None:
    """Work with a model on a device: filter or embed."""
    try:
        from dataset.models.pipeline import Pipeline, decoder_processes
        from dataset.models.towers import Precision
        from workers.embed import Embed
        from workers.filter import Filter
        from workers.runtime.model_cache import ModelCache
    except ModuleNotFoundError as error:
        raise CannotWork(f"{error.name} is not installed: install Shoal with its extra [models]") from error
    if use.precision is not None and use.precision not in list(Precision):
        raise typer.BadParameter(f"{use.precision!r} is no precision: give {', '.join(Precision)}")

    model_cache = ModelCache(use.device, Precision(use.precision) if use.precision else None, use.compiled)

    @contextmanager
    def stage(_settings: Mapping[str, Any]) -> Iterator[Filter | Embed]:
        decoders = decoder_processes(use.device) if use.decoders is None else use.decoders
        make = Filter if kind == "filter" else Embed
        with Pipeline(decoders, use.batch_size, metrics.model_busy) as pipeline:
            yield make(pipeline, model_cache)

    running.work(kind, stage)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no network: give CIDR, e.g. 127.0.0.0/8") from error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
