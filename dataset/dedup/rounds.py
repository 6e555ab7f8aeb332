"""The rounds of the leader join over super-cells: new, merge, rest, sweep.

    new    super-cell ─▶ its new rows and visitors against representatives ─▶ the best of each row, in sections by home
    merge  super-cell ─▶ the best of all super-cells' ─▶ `merged`: covers, and a flag for each row
    rest   super-cell ─▶ pairs among the rows that are left
    sweep  one unit   ─▶ covers and orphans, in sections by home; all other rows of the round are representatives

A row lives in its home super-cell and is read from there by those it visits.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dataset.dedup.arrays import Array, Arrays, in_sections, write_arrays
from dataset.dedup.candidates import Rows
from dataset.dedup.leader_join import (
    COVER,
    EDGE,
    NEAREST,
    Judge,
    Places,
    most_similar,
    nearest_leaders,
    pairs_of_rest,
    starts_of_runs,
    sweep,
)
from dataset.dedup.options import GREY_PDQ_DISTANCE
from dataset.dedup.projection import code_threshold
from dataset.dedup.rescore import Names, Rescorer, to_steps
from dataset.dedup.work import Work, nodes, split_nodes
from dataset.formats.steps import UnitResult

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]


class Flag(IntEnum):
    """What has become of a row."""

    WAITING = 0
    REPRESENTATIVE = 1
    COVERED = 2
    ORPHAN = 3


@dataclass(frozen=True, slots=True)
class _Side:
    """Rows of one kind that take part at a super-cell, those that live there first."""

    rows: Rows
    names: Names
    home: Places
    visits: Places
    pdq: Array | None


class Round:
    """Round `at`, seen from a super-cell."""

    def __init__(self, work: Work, at: int, super_cell: int) -> None:
        """Open nothing yet."""
        self._work, self._at, self._super_cell = work, at, super_cell

    def join_new(self) -> UnitResult:
        """Write the nearest representative of each new row that has one."""
        new = self._side(merged=False, new=True)
        found = np.empty(0, NEAREST)
        if len(new.rows.id):
            old = self._side(merged=False, new=False)
            found = nearest_leaders(
                (new.rows, new.home, new.visits),
                (old.rows, old.home, old.visits),
                self._from_product,
                self._judge(new, old),
            )
        order, offsets = in_sections(split_nodes(found["row"])[1], self._work.plan.super_cells)
        arrays = {"nearest": _plain(found[order]), "offsets": offsets}
        write_arrays(self._work.store, self._path("new", self._super_cell), arrays)
        return UnitResult(len(new.rows.id), len(found))

    def merge(self) -> UnitResult:
        """Write the flags of the super-cell's rows after `new`, and which rows are covered by which."""
        supers = range(self._work.plan.super_cells)
        pieces = [
            Arrays(self._work.store, self._path("new", one)).section("nearest", self._super_cell, "offsets")
            for one in supers
        ]
        found = most_similar(records_of(np.concatenate(pieces), NEAREST))
        covers = np.empty(len(found), COVER)
        for name in COVER.names or ():
            covers[name] = found[name]
        arrays: dict[str, Array] = {"covers": _plain(covers)}
        batches, _, places = split_nodes(covers["row"])
        for batch in self._batches:
            flags = flags_before(self._work, self._at, self._super_cell, batch)
            flags[places[batches == batch]] = Flag.COVERED
            arrays[f"flags{batch}"] = flags
        write_arrays(self._work.store, self._path("merged", self._super_cell), arrays)
        return UnitResult(len(found), len(covers))

    def join_rest(self) -> UnitResult:
        """Write the pairs among the rows of the round that are left."""
        left = self._side(merged=True, new=True)
        edges, guarded = pairs_of_rest(left.rows, left.home, left.visits, self._from_product, self._judge(left, left))
        arrays = {"edges": _plain(edges), "guarded": guarded}
        write_arrays(self._work.store, self._path("rest", self._super_cell), arrays)
        return UnitResult(len(left.rows.id), len(edges))

    @property
    def _batches(self) -> range:
        return range(self._work.plan.batch_of_round(self._at) + 1)

    @cached_property
    def _from_product(self) -> float:
        kept = float(self._work.open("parameters").read("kept")[0])
        return code_threshold(self._work.options.candidates_from - 0.5e-4, kept)

    @cached_property
    def _rescorer(self) -> Rescorer:
        return self._work.rescorer()

    def _path(self, *names: object) -> str:
        return self._work.path("rounds", self._at, *names)

    def _judge(self, left: _Side, right: _Side) -> Judge:
        options = self._work.options
        threshold, grey = to_steps(options.at), to_steps(options.candidates_from)

        def judge(a: Integers, b: Integers) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
            if not len(a):
                return np.empty(0, np.int16), np.empty(0, bool)
            cosines = self._rescorer.cosines_from(grey, left.names, a, right.names, b)
            near = cosines >= threshold
            if left.pdq is not None and right.pdq is not None:
                doubtful = np.flatnonzero(~near & (cosines >= grey))
                distance = pdq_distance(left.pdq[a[doubtful]], right.pdq[b[doubtful]])
                near[doubtful] = distance <= GREY_PDQ_DISTANCE
            return cosines, near

        return judge

    def _wanted(self, batch: int, super_cell: int, *, merged: bool, new: bool) -> npt.NDArray[np.bool_]:
        """Return which rows of a home take part: new ones, or representatives."""
        if merged:
            flags = Arrays(self._work.store, self._path("merged", super_cell)).read(f"flags{batch}")
        else:
            flags = flags_before(self._work, self._at, super_cell, batch)
        if not new:
            found: npt.NDArray[np.bool_] = flags == Flag.REPRESENTATIVE
            return found
        return waiting(self._work, self._work.home(batch, super_cell), flags, self._at, batch)

    def _side(self, *, merged: bool, new: bool) -> _Side:
        pieces: list[tuple[int, int, Integers]] = []
        home_cells, visit_cells, visit_rows, count = [], [], [], 0
        supers = [self._super_cell, *(one for one in range(self._work.plan.super_cells) if one != self._super_cell)]
        for super_cell in supers:
            for batch in self._batches:
                home = self._work.home(batch, super_cell)
                start, end = home.read("visit_offsets", self._super_cell, self._super_cell + 2).tolist()
                if start == end and super_cell != self._super_cell:
                    continue
                wanted = self._wanted(batch, super_cell, merged=merged, new=new)
                if super_cell != self._super_cell and not wanted.any():
                    continue
                visitor, visited = home.read("visitor", start, end), home.read("visited", start, end)
                taken = wanted[visitor]
                visitor, visited = visitor[taken], visited[taken]  # visitors ascend
                if super_cell == self._super_cell:
                    chosen = np.flatnonzero(wanted)
                    home_cells.append(home.read("cell")[chosen])
                    place = np.cumsum(wanted)[visitor] - 1
                else:
                    first = starts_of_runs(visitor)
                    chosen = visitor[first].astype(np.int64)
                    place = np.cumsum(first) - 1
                visit_cells.append(visited)
                visit_rows.append(place + count)
                pieces.append((batch, super_cell, chosen))
                count += len(chosen)
        cells = np.concatenate(home_cells)
        return _Side(
            self._rows(pieces),
            Names(
                np.concatenate([np.full(len(chosen), batch) for batch, _, chosen in pieces]),
                self._column(pieces, "row"),
            ),
            Places.of(cells, np.arange(len(cells))),
            Places.of(np.concatenate(visit_cells), np.concatenate(visit_rows)),
            self._column(pieces, "pdq") if self._work.options.with_pdq else None,
        )

    def _rows(self, pieces: list[tuple[int, int, Integers]]) -> Rows:
        node = np.concatenate([nodes(batch, super_cell, chosen) for batch, super_cell, chosen in pieces])
        quality, ids, codes = (self._column(pieces, name) for name in ("quality", "id", "code"))
        return Rows(codes, node, quality, ids, self._column(pieces, "rest"))

    def _column(self, pieces: list[tuple[int, int, Integers]], name: str) -> Array:
        return np.concatenate([self._work.home(batch, one).take(name, chosen) for batch, one, chosen in pieces])


def sweep_round(work: Work, at: int) -> UnitResult:
    """Write the covers among the rows that are left, and the orphans."""
    opened = [work.open("rounds", at, "rest", one) for one in range(work.plan.super_cells)]
    edges = records_of(np.concatenate([one.read("edges") for one in opened]), EDGE)
    guarded = np.unique(np.concatenate([one.read("guarded") for one in opened]))
    covers, orphans = sweep(edges, guarded)
    order, offsets = in_sections(split_nodes(covers["row"])[1], work.plan.super_cells)
    orphan_order, orphan_offsets = in_sections(split_nodes(orphans)[1], work.plan.super_cells)
    arrays = {"covers": _plain(covers[order]), "offsets": offsets, "orphans": orphans[orphan_order],
              "orphan_offsets": orphan_offsets}  # fmt: skip
    write_arrays(work.store, work.path("rounds", at, "sweep"), arrays)
    return UnitResult(len(edges), len(covers))


def flags_before(work: Work, at: int, super_cell: int, batch: int) -> Flags:
    """Return the flags of a home's rows before round `at`."""
    if at == 0 or work.plan.batches[batch].first_round >= at:
        return np.zeros(work.home(batch, super_cell).rows("id"), np.uint8)
    flags = work.open("rounds", at - 1, "merged", super_cell).read(f"flags{batch}").copy()
    flags[waiting(work, work.home(batch, super_cell), flags, at - 1, batch)] = Flag.REPRESENTATIVE
    swept = work.open("rounds", at - 1, "sweep")
    ended = any(one.end_round == at for one in work.plan.batches)  # then an orphan stays what it is: it is kept
    left = Flag.REPRESENTATIVE if ended else Flag.ORPHAN
    for rows, flag in (
        (records_of(swept.section("covers", super_cell, "offsets"), COVER)["row"], Flag.COVERED),
        (swept.section("orphans", super_cell, "orphan_offsets"), left),
    ):
        batches, _, places = split_nodes(rows)
        flags[places[batches == batch]] = flag
    return flags


def waiting(work: Work, home: Arrays, flags: Flags, at: int, batch: int) -> npt.NDArray[np.bool_]:
    """Return which rows of a home are new in round `at`: its own, and orphans of earlier rounds."""
    found: npt.NDArray[np.bool_] = flags == Flag.ORPHAN
    plan = work.plan.batches[batch]
    if plan.first_round <= at < plan.end_round:
        start, end = home.read("starts", at - plan.first_round, at - plan.first_round + 2).tolist()
        found[start:end] |= flags[start:end] == Flag.WAITING
    return found


def all_covers(work: Work, super_cell: int) -> npt.NDArray[np.void]:
    """Return the covers of a super-cell's rows over all rounds."""
    found = []
    for at in range(work.plan.end_round):
        found.append(records_of(work.open("rounds", at, "merged", super_cell).read("covers"), COVER))
        found.append(records_of(work.open("rounds", at, "sweep").section("covers", super_cell, "offsets"), COVER))
    return np.concatenate(found)


def pdq_distance(a: Array, b: Array) -> Integers:
    """Return in how many bits (N, 32) uint8 hashes differ -> (N,); 256 where a picture has none."""
    found = np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int64)
    return np.where(a.any(axis=1) & b.any(axis=1), found, 256)


def _plain(records: npt.NDArray[np.void]) -> Array:
    """Return records as (N, bytes) uint8, which a file of arrays can hold."""
    return np.frombuffer(records.tobytes(), np.uint8).reshape(len(records), records.dtype.itemsize)


def records_of(plain: Array, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return records from the (N, bytes) uint8 that a file of arrays holds."""
    return np.frombuffer(plain.tobytes(), dtype)
