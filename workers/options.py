"""The options of the command `worker`, each with its help, under the names that its subcommands take them by."""

from typing import Annotated

import typer

from workers.fetching.policy import Profile

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
    typer.Option("--decoders", min=1, help="Processes that decode; default: for a GPU one a core, else one."),
]
UntilIdle = Annotated[bool, typer.Option("--until-idle", help="End when nothing can come to the queue any more.")]
Processes = Annotated[int, typer.Option(min=1, max=1_024, help="Worker processes, under one parent.")]

UserAgent = Annotated[
    str | None, typer.Option(envvar="SHOAL_USER_AGENT", help="Name/version (+URL where a site's owner reaches you).")
]
AllowedNetworks = Annotated[
    list[str] | None, typer.Option(metavar="CIDR", help="Let in although it is not public; may be repeated.")
]
AllowedPorts = Annotated[list[int] | None, typer.Option(metavar="N", help="Let in beside 80 and 443; may be repeated.")]
LinkTimeout = Annotated[float, typer.Option("--timeout", help="For one link, everything included.")]
Concurrency = Annotated[int, typer.Option(help="Links under way at once.")]
ProfileName = Annotated[
    Profile, typer.Option(help="How hosts are treated: fast (4 at once), or polite (one in 2 s, robots.txt).")
]
KeepToRobots = Annotated[
    bool | None, typer.Option("--robots/--no-robots", help="Keep to robots.txt; default: the profile's.")
]
PerHost = Annotated[int | None, typer.Option(help="Requests under way at once to one host; default: the profile's.")]
HostSpacing = Annotated[
    float | None, typer.Option(help="Seconds between two requests to one host, at least; default: the profile's.")
]
PerAddress = Annotated[
    int | None, typer.Option(help="The same to one address, whatever hosts share it; 0: any number.")
]
AddressSpacing = Annotated[
    float | None, typer.Option(help="Seconds between two requests to one address; default: the profile's.")
]
Nameservers = Annotated[list[str] | None, typer.Option(metavar="ADDRESS[:PORT]", help="DNS resolver.")]
OptOutWords = Annotated[
    list[str] | None,
    typer.Option(
        "--opt-out",
        metavar="WORD",
        envvar="SHOAL_OPT_OUT",
        help="Keep no picture whose response says this: noai (X-Robots-Tag), train-ai=n (Content-Usage), "
        "tdm-reservation=1. Repeatable; replaces the default list; '' honours nothing.",
    ),
]
VerifyTls = Annotated[bool, typer.Option(help="Refuse certificates that do not vouch for the host.")]
