"""How the search came to a row's representative: its round, and the cell in which the two were compared.

It is read from the search's own files, which are kept for later batches and can be deleted at any time.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dataset.dedup.errors import DedupError
from dataset.dedup.leader_join import COVER
from dataset.dedup.options import Options
from dataset.dedup.rounds import records_of
from dataset.dedup.work import Work, nodes, read_state, split_nodes
from dataset.formats.releases import Release

Integers = npt.NDArray[np.int64]


class Step(StrEnum):
    """Where a row got its representative."""

    EQUAL = "equal"
    """Its embedding is equal to a better row's; `met` is that row, whose representative is the row's."""
    EARLIER = "earlier"
    """It was compared with the representatives of earlier rounds."""
    ROUND = "round"
    """It was compared with the rows of its own round."""
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class MergePath:
    """A row's way through the search; rounds count from 1, over all batches."""

    batch: str
    round: int | None
    """In which it got its representative, or was kept; None for an equal embedding, which takes part in no round."""
    rounds: int
    step: Step
    met: int | None
    """The row that represents it, by its id."""
    cell: int | None
    """The home of the row; None for an equal embedding."""
    met_cell: int | None
    """The home of the row that represents it."""
    visited: int | None
    """The cell in which the two were compared: one of the homes, which the other row visits."""


def find_path(release: Release, options: Options, row: int) -> MergePath | None:
    """Return the path of a row; None if the search's files are deleted or are those of another search."""
    try:
        if read_state(release, options.model) is None:
            return None
        work = Work(release, options)
    except DedupError:
        return None
    for batch in range(work.plan.new_from):
        if not any(file.first_id <= row <= file.last_id for file in work.data_of(batch)):
            continue
        for super_cell in range(work.plan.super_cells):
            home = work.home(batch, super_cell)
            at = np.flatnonzero(home.read("id") == row)
            if len(at):
                return _path(work, batch, super_cell, int(at[0]))
            equal = np.flatnonzero(home.read("equal_id") == row)
            if len(equal):
                met = _row(work, int(home.read("equal_leader")[equal[0]]))
                name = work.plan.batches[batch].name
                return MergePath(name, None, _rounds(work), Step.EQUAL, met.id, None, met.cell, None)
    return None


@dataclass(frozen=True, slots=True)
class _Row:
    id: int
    cell: int
    visits: frozenset[int]


def _row(work: Work, node: int) -> _Row:
    batches, supers, places = split_nodes(np.array([node], np.int64))
    home, place = work.home(int(batches[0]), int(supers[0])), int(places[0])
    visited = home.read("visited")[home.read("visitor") == place]
    return _Row(int(home.read("id")[place]), int(home.read("cell")[place]), frozenset(visited.tolist()))


def _rounds(work: Work) -> int:
    return work.plan.batches[work.plan.new_from - 1].end_round


def _path(work: Work, batch: int, super_cell: int, place: int) -> MergePath:
    plan = work.plan.batches[batch]
    node = int(nodes(batch, super_cell, np.array([place]))[0])
    own = _row(work, node)
    starts = work.home(batch, super_cell).read("starts")
    first = plan.first_round + int(np.searchsorted(starts, place, "right")) - 1
    last = first
    for at in range(first, plan.end_round):
        merged = work.open("rounds", at, "merged", super_cell)
        swept = work.open("rounds", at, "sweep")
        sections = (
            (Step.EARLIER, records_of(merged.read("covers"), COVER)),
            (Step.ROUND, records_of(swept.section("covers", super_cell, "offsets"), COVER)),
        )
        for step, covers in sections:
            found = covers["leader"][covers["row"] == node]
            if len(found):
                met = _row(work, int(found[0]))
                return MergePath(plan.name, at + 1, _rounds(work), step, met.id, own.cell, met.cell, _where(own, met))
        if node in swept.section("orphans", super_cell, "orphan_offsets"):
            last = at + 1
    return MergePath(plan.name, min(last, plan.end_round - 1) + 1, _rounds(work), Step.KEPT, None, own.cell, None, None)


def _where(own: _Row, met: _Row) -> int | None:
    if own.cell == met.cell or own.cell in met.visits:
        return own.cell
    return met.cell if met.cell in own.visits else None
