"""The options of `dataset serve`."""

from pathlib import Path
from typing import Annotated

import typer

MODEL, WHAT, WHO = "Texts and pictures", "What is shown", "Clients"

IndexedArgument = Annotated[
    list[str], typer.Argument(metavar="RELEASE|INDEX…", help="Releases with an index, or folders of indexes.")
]
PortOption = Annotated[int, typer.Option(min=0, max=65_535, help="TCP port; 0 picks a free one.")]
HostOption = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")]
IndexModelOption = Annotated[
    str | None, typer.Option(help="Folder below index/ of a release; not needed if there is one.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=MODEL, help="Model of texts and pictures, as `dataset embed --model` names it."),
]
PretrainedOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=MODEL, help="Weights: open_clip's tag, a file, a folder, or store:models/NAME."),
]
DeviceOption = Annotated[str, typer.Option(rich_help_panel=MODEL, help="Device of the model: cpu, cuda or cuda:N.")]
FetcherOption = Annotated[
    Path | None,
    typer.Option(rich_help_panel=MODEL, help="Socket of `worker fetcher`; without it, no pictures by URL."),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(rich_help_panel=WHAT, help="Further column of rows in clip-retrieval's answers. Repeatable."),
]
MaskOption = Annotated[
    list[Path] | None,
    typer.Option(rich_help_panel=WHAT, help="Parquet file with a column id, whose rows are never shown. Repeatable."),
]
AestheticOption = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=WHAT, help="Folder of rating0.npy to rating9.npy for clip-retrieval's aesthetic_score."
    ),
]
SafeOption = Annotated[
    bool, typer.Option("--safe/--no-safe", rich_help_panel=WHAT, help="Leave out unsafe rows by default.")
]
AlwaysSafeOption = Annotated[
    bool, typer.Option("--always-safe", rich_help_panel=WHAT, help="Clients cannot switch off safe mode.")
]
PageOption = Annotated[
    Path | None, typer.Option(rich_help_panel=WHAT, help="Folder to serve instead of the search page.")
]
ExportsOption = Annotated[
    Path | None, typer.Option(rich_help_panel=WHAT, help="Folder for exports. Default: a temporary one.")
]
ReportsOption = Annotated[
    bool,
    typer.Option("--reports", rich_help_panel=WHO, help="Accept reports of rows: takedown requests in the store."),
]
OperatorTokenOption = Annotated[
    Path | None,
    typer.Option(rich_help_panel=WHO, help="File with a token for tracing rows and deciding on reports."),
]
CorsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ORIGIN", rich_help_panel=WHO, help="Site whose pages may read answers; * for all."),
]
PerSecondOption = Annotated[
    float, typer.Option(min=0, rich_help_panel=WHO, help="Requests per second and address; 0 means no limit.")
]
BurstOption = Annotated[int, typer.Option(min=1, rich_help_panel=WHO, help="Concurrent requests per address.")]
ProxyOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ADDRESS", rich_help_panel=WHO, help="Trust X-Forwarded-For from this address. Repeatable."),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Search threads.")]
LogQueriesOption = Annotated[bool, typer.Option("--log-queries", help="Log the texts of queries.")]
