"""The command `worker`: one kind of work a process. Logs go to stderr, one line a job; exit 0, 1 (failed), 2 (usage).

A download worker starts without torch: each stage is imported by its own subcommand.
"""

import logging
import sys
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

import trio
import typer

from dataset.errors import DatasetError
from dataset.store import Store
from tracker.database import connect, database_url
from tracker.errors import TrackerError
from tracker.migrate import require_head
from tracker.session import Session
from tracker.settings import Settings
from workers.desk import Desk
from workers.errors import CannotWork, WorkerError
from workers.extract import Extract
from workers.ingest import Ingest
from workers.loop import Patience, Stage, run

app = typer.Typer(
    help="Work for the swarm.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Once = Annotated[bool, typer.Option("--once", help="Claim once, work, and end.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the GPU if there is one.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples at once; default: 1024 on a GPU, 32 on a CPU.")]
DecoderProcesses = Annotated[
    int | None,
    typer.Option("--decoders", min=0, help="Processes that decode; default: for a GPU one a core, else none."),
]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="End when nothing can come to the queue any more.")]


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
def extract(once: Once = False, until_idle: UntilIdle = False) -> None:
    """WAT files in, packs of candidates out."""
    _work(Extract, Patience(once, until_idle))


@app.command()
def ingest(once: Once = False, until_idle: UntilIdle = False) -> None:
    """Packs in, new candidates into the pool."""
    _work(Ingest, Patience(once, until_idle))


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
    per_host: Annotated[int, typer.Option(help="Requests under way at once to one host.")] = 4,
    host_spacing: Annotated[float, typer.Option(help="Seconds between two requests to one host, at least.")] = 0.0,
    nameserver: Annotated[list[str] | None, typer.Option(metavar="ADDRESS[:PORT]", help="DNS resolver.")] = None,
    verify_tls: Annotated[bool, typer.Option(help="Refuse certificates that do not vouch for the host.")] = True,
) -> None:
    """Batches of links in, shards of images out."""
    from workers.download import Download
    from workers.fetching.policy import FetchPolicy, PolicyError

    settings: dict[str, str] = {"user_agent": user_agent} if user_agent else {}
    try:
        policy = FetchPolicy(
            **settings,  # type: ignore[arg-type]  # the one key is the one named above
            concurrency=concurrency,
            per_host=per_host,
            host_spacing_seconds=host_spacing,
            timeout_seconds=timeout_seconds,
            allow_networks=tuple(_network(text) for text in allow_network or ()),
            allow_ports=tuple(allow_port or ()),
            verify_tls=verify_tls,
            nameservers=tuple(nameserver or ()),
        )
    except PolicyError as error:
        raise typer.BadParameter(str(error)) from error
    _work(lambda: Download(policy), Patience(once, until_idle))


@app.command("filter")
def filter_shards(
    once: Once = False,
    until_idle: UntilIdle = False,
    device: Device = None,
    precision: Annotated[
        str | None,
        typer.Option(help="float32, float16 or bfloat16; default: float16 on a GPU, else float32."),
    ] = None,
    batch_size: BatchSize = None,
    decoders: DecoderProcesses = None,
) -> None:
    """Shards in, parts of the pairs that passed out."""
    try:
        from dataset.pipeline import Pipeline, decoder_processes
        from dataset.towers import Precision
        from workers.filter import Filter
    except ModuleNotFoundError as error:
        raise CannotWork(f"{error.name} is not installed: install Shoal with its extra [models]") from error
    if precision is not None and precision not in list(Precision):
        raise typer.BadParameter(f"{precision!r} is no precision: give {', '.join(Precision)}")
    processes = decoder_processes(device) if decoders is None else decoders
    with Pipeline(processes, batch_size) as pipeline:
        _work(lambda: Filter(pipeline, device, Precision(precision) if precision else None), Patience(once, until_idle))


def _work(make_stage: Callable[[], Stage[Any]], patience: Patience) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    settings = Settings.from_environment()
    url = database_url(settings)
    with connect(url) as connection:
        require_head(connection)
    store = Store.open(settings.store)
    stage = make_stage()
    session = Session.register(url, stage.kind, token=settings.token)
    try:
        trio.run(_run, stage, session, store, patience)
    finally:
        session.close()


async def _run(stage: Stage[Any], session: Session, store: Store, patience: Patience) -> None:
    await run(stage, Desk(session, store), patience)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no network: give CIDR, e.g. 127.0.0.0/8") from error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
