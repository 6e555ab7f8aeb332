"""What a report can say of precision: from answers on this release's pairs, from answers on another release's, or
without answers.

Pictures vanish, so not every release can be labelled. The three ways that are left: pictures are fetched again from
their URLs, and those that arrive unchanged are labelled; answers on another release by the same model are weighted with
this release's pairs; or captions and hosts are compared (control.py). `Evidence.way` says which was used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dataset.dedup.vectors import Vectors
from dataset.formats.releases import Release
from dataset.label.answers import Refetched, read_answers
from dataset.label.control import Control, compare_captions
from dataset.label.journal import LabelError
from dataset.label.pairs import Stratum, draw_pairs
from dataset.label.precision import Measured, measure, tally
from dataset.side_tables.rows import ReleaseRows

CONTROL_PAIRS = 100
"""Of each stratum, whose captions are compared."""


class Way(StrEnum):
    """Where what is known of precision comes from."""

    LABELLED = "labelled"
    REFETCHED = "refetched"
    BORROWED = "borrowed"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of precision; `measured` from answers, `control` without."""

    way: Way
    answers_of: str
    """The release and version of the answers."""
    measured: Measured | None
    refetched: Refetched | None
    control: tuple[Control, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return asdict(self)


def from_answers(release: Release, model: str, at: float, path: Path, wanted: float, *, threads: int = 1) -> Evidence:
    """Return the precision of a release's near-duplicates by `model`, from a file of answers.

    Raises: LabelError when the file cannot be read, or its answers are of embeddings by another model.
    """
    read = read_answers(path)
    draw = read.draw
    own = Vectors(release, model).model
    if own is None or not own.sha256 or draw["model"] != own.sha256:
        raise LabelError(
            f"{path} has answers on another model's embeddings, whose cosines mean something else: give answers on "
            f"pairs of {model}."
        )
    mine = (draw["release"], draw["version"]) == (release.record.name, release.record.version)
    if mine and draw["threshold"] == at:
        counts: Mapping[Stratum, int] = read.counts
        way = Way.REFETCHED if read.refetched else Way.LABELLED
    else:
        counts = draw_pairs(ReleaseRows.open(release), 1, 0, threads=threads).counts
        way = Way.BORROWED
    measured = measure(counts, tally(read.strata, read.given), at, wanted)
    return Evidence(way, f"{draw['release']} {draw['version']}", measured, read.refetched, ())


def without_answers(release: Release, order: Sequence[str], *, threads: int = 1) -> Evidence:
    """Return what captions and hosts say of a release's near-duplicates; `order` is the search's order of quality."""
    rows = ReleaseRows.open(release)
    drawn = draw_pairs(rows, CONTROL_PAIRS, 0, threads=threads)
    return Evidence(Way.CONTROL, "", None, None, tuple(compare_captions(rows, drawn, order)))
