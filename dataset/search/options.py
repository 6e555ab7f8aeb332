"""What the operator of a server decides about its application."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.formats.releases import Release
from dataset.search.clip_retrieval import DEFAULT_COLUMNS
from dataset.search.engine import Vectors
from dataset.search.reports import Reports


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions:
    """The options. `page` is served under /; None means our own."""

    columns: Sequence[str] = DEFAULT_COLUMNS
    ratings: Vectors | None = None
    """(10, D) float32: vectors of pictures' ratings, for clip-retrieval's aesthetic_score."""
    cors: Sequence[str] = ()
    per_second: float = 20.0
    burst: int = 100
    page: Path | None = None
    operator_token: str | None = None
    log_queries: bool = False
    exports: Path | None = None
    trace: Callable[[str, int], Mapping[str, Any]] | None = None
    """Of an index's name and an id."""
    releases: Mapping[str, Callable[[], Release]] = field(default_factory=dict)
    """Open the live version of an index's release, by the index's name."""
    reports: Reports | None = None
    """Where reports go; without it nobody can report a row."""
