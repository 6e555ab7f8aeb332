"""The options of the command `worker`, each with its help, under the names of the parameters of its subcommands."""

from pathlib import Path
from typing import Annotated

import typer

from workers.fetching.policy import Profile

POLITENESS = "Politeness (options override the profile)"
NETWORK = "Network"
PROCESS = "Process and metrics"
MODEL = "Model"

Once = Annotated[bool, typer.Option("--once", help="End after one claim.")]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="End when the queue is empty and no more jobs can come.")]
EndWhenDone = Annotated[
    bool, typer.Option("--until-idle", help="End when no stage has work left, including retries of failed links.")
]
Processes = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, max=1_024, rich_help_panel=PROCESS, help="Worker processes to run on this machine."
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        envvar="SHOAL_METRICS_PORT",
        rich_help_panel=PROCESS,
        help="Serve Prometheus metrics on this port; 0 picks a free port. Off by default.",
    ),
]
MetricsHost = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", envvar="SHOAL_METRICS_HOST", rich_help_panel=PROCESS, help="Address of the metrics port."
    ),
]

Scratch = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        show_default="below TMPDIR",
        rich_help_panel=PROCESS,
        help="Local folder for a unit's temporary files.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        metavar="GIB",
        min=0.2,
        rich_help_panel=PROCESS,
        help="GiB of memory that the process of a unit may use, without mapped files. Default: no limit.",
    ),
]

Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", rich_help_panel=MODEL, help="cpu, cuda or cuda:N. Default: the first GPU, or the CPU."
    ),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="TYPE",
        rich_help_panel=MODEL,
        help="float32, float16 or bfloat16. Default: float16 on a GPU, float32 on a CPU.",
    ),
]
Compiled = Annotated[
    bool,
    typer.Option(
        "--compile", rich_help_panel=MODEL, help="Compile the image tower; takes a minute and needs a C compiler."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, rich_help_panel=MODEL, help="Samples per forward pass. Default: 1024 on a GPU, 32 on a CPU."
    ),
]
DecoderProcesses = Annotated[
    int | None,
    typer.Option(
        "--decoders",
        metavar="N",
        min=1,
        rich_help_panel=MODEL,
        help="Processes that decode pictures. Default: one per core for a GPU, one for a CPU.",
    ),
]

UserAgent = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        envvar="SHOAL_USER_AGENT",
        help="User-Agent of every request: name/version (+URL of a page with your contact).",
    ),
]
Concurrency = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=NETWORK, help="Links that are fetched at the same time.")
]
LinkTimeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", rich_help_panel=NETWORK, help="Seconds for one link, including redirects."
    ),
]
Nameservers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS[:PORT]",
        rich_help_panel=NETWORK,
        help="DNS resolver instead of those of /etc/resolv.conf. Repeatable.",
    ),
]
AllowedNetworks = Annotated[
    list[str] | None,
    typer.Option(metavar="CIDR", rich_help_panel=NETWORK, help="Also allow this private network. Repeatable."),
]
AllowedPorts = Annotated[
    list[int] | None,
    typer.Option(metavar="N", rich_help_panel=NETWORK, help="Also allow this port, besides 80 and 443. Repeatable."),
]
VerifyTls = Annotated[
    bool,
    typer.Option(
        " /--no-verify-tls",
        rich_help_panel=NETWORK,
        show_default=False,
        help="Accept any TLS certificate.",
    ),
]

ProfileName = Annotated[
    Profile,
    typer.Option(
        rich_help_panel=POLITENESS,
        help="fast: 4 requests per host at a time. polite: 1 per host every 2 s, and robots.txt is respected.",
    ),
]
KeepToRobots = Annotated[
    bool | None,
    typer.Option("--robots/--no-robots", rich_help_panel=POLITENESS, help="Respect robots.txt."),
]
PerHost = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=POLITENESS, help="Concurrent requests per host."),
]
HostSpacing = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        rich_help_panel=POLITENESS,
        help="Seconds between two requests to a host.",
    ),
]
PerAddress = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=POLITENESS,
        help="Concurrent requests per IP address; 0 means no limit.",
    ),
]
AddressSpacing = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        rich_help_panel=POLITENESS,
        help="Seconds between two requests to an IP address.",
    ),
]
OptOutWords = Annotated[
    list[str] | None,
    typer.Option(
        "--opt-out",
        metavar="WORD",
        envvar="SHOAL_OPT_OUT",
        rich_help_panel=POLITENESS,
        help="Drop pictures whose response headers have this word, e.g. noai, train-ai=n, tdm-reservation=1. "
        "Repeatable; replaces the default list. '' turns it off.",
    ),
]
