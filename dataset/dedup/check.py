"""Group sizes, and the promises that are checked over all rows at the end of a search.

A member's exact cosine to its representative, read anew from the float16 rows, reaches the threshold, and what
represents it is a representative: a search in which one row breaks this fails. What the join missed, two
representatives at the threshold, is estimated: a sample of them is compared with all, without cells, by codes that
lose no pair. Of earlier batches, what was checked before and is unchanged is not compared again (checked.py).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.dedup.arrays import Array, in_sections, write_arrays
from dataset.dedup.checked import Checked, digest_of, read_checked, unchanged_batches
from dataset.dedup.errors import DedupError
from dataset.dedup.prepare import below_share, mixed
from dataset.dedup.projection import code_threshold, places_from
from dataset.dedup.rescore import to_steps
from dataset.dedup.rounds import Flag, all_covers, flags_before, pdq_distance
from dataset.dedup.work import Work, nodes, split_nodes
from dataset.formats.halves import widen
from dataset.formats.steps import UnitResult
from dataset.tags.wilson import wilson

Integers = npt.NDArray[np.int64]

SAMPLE = 1_000
"""Representatives that are compared with all others."""
_ROWS_AT_ONCE = 2_048


@dataclass(frozen=True, slots=True)
class Members:
    """All rows of a batch in a super-cell: those that were compared, then those equal to one of them."""

    representative: Integers
    """Nodes."""
    cosine: npt.NDArray[np.int16]
    equal: npt.NDArray[np.bool_]
    """Whether the row's embedding is the representative's."""


def count_members(work: Work, super_cell: int) -> UnitResult:
    """Write each row's representative, the sizes of groups in sections by super-cell, and the sample."""
    found = all_covers(work, super_cell)
    covered_batches, _, covered = split_nodes(found["row"])
    arrays: dict[str, Array] = {}
    whole: list[tuple[Integers, npt.NDArray[np.int16]]] = []
    gathered, sample, digests = [], [], []
    for batch in range(len(work.plan.batches)):
        home = work.home(batch, super_cell)
        count = home.rows("id")
        representative, cosine = nodes(batch, super_cell, np.arange(count)), np.full(count, to_steps(1.0), np.int16)
        mine = covered_batches == batch
        representative[covered[mine]], cosine[covered[mine]] = found["leader"][mine], found["cosine"][mine]
        whole.append((representative, cosine))
        leader_batch, _, leader = split_nodes(home.read("equal_leader"))
        equal_to = np.empty(len(leader), np.int64)
        equal_cosine = np.empty(len(leader), np.int16)
        for earlier in range(batch + 1):
            those = leader_batch == earlier
            equal_to[those], equal_cosine[those] = (column[leader[those]] for column in whole[earlier])
        arrays[f"representative{batch}"] = np.concatenate([representative, equal_to])
        arrays[f"cosine{batch}"] = np.concatenate([cosine, equal_cosine])
        gathered.append(arrays[f"representative{batch}"])
        content = [home.read("row"), home.read("equal_row"), gathered[-1], arrays[f"cosine{batch}"]]
        digests.append(digest_of(work, batch, content))
        kept = np.flatnonzero(representative == nodes(batch, super_cell, np.arange(count)))
        chosen = kept[mixed(home.take("id", kept)) < _sample_below(work)]
        sample.append(nodes(batch, super_cell, chosen))
    names, sizes = np.unique(np.concatenate(gathered), return_counts=True)
    order, offsets = in_sections(split_nodes(names)[1], work.plan.super_cells)
    arrays |= {"group": names[order], "size": sizes[order], "offsets": offsets, "sample": np.concatenate(sample),
               "digest": np.array(digests)}  # fmt: skip
    write_arrays(work.store, work.path("end", "members", super_cell), arrays)
    return UnitResult(len(found), len(names))


def read_members(work: Work, super_cell: int, batch: int) -> Members:
    """Return the rows of a batch in a super-cell, with what represents them."""
    opened = work.open("end", "members", super_cell)
    representative, cosine = opened.read(f"representative{batch}"), opened.read(f"cosine{batch}")
    home = work.home(batch, super_cell)
    equal = np.zeros(len(representative), bool)
    equal[home.rows("id") :] = representative[home.rows("id") :] == home.read("equal_leader")
    return Members(representative, cosine, equal)


def verify(work: Work, super_cell: int) -> UnitResult:
    """Check the members of a super-cell, add up the sizes of its groups, and look for what the join missed.

    Raises: DedupError when a promise does not hold.
    """
    sizes: dict[str, Array] = {}
    counted = []
    for one in range(work.plan.super_cells):
        opened = work.open("end", "members", one)
        names = opened.section("group", super_cell, "offsets")
        counted.append((names, opened.section("size", super_cell, "offsets")))
    names, size = (np.concatenate(column) for column in zip(*counted, strict=True))
    batches, _, places = split_nodes(names)
    for batch in range(len(work.plan.batches)):
        total = np.zeros(work.home(batch, super_cell).rows("id"), np.int64)
        np.add.at(total, places[batches == batch], size[batches == batch])
        sizes[f"size{batch}"] = total
    unchanged = unchanged_batches(work)
    before = read_checked(work, super_cell, unchanged)
    members = np.concatenate([before.members, _check_members(work, super_cell, unchanged)])
    missed = _look_for_missed(work, super_cell, unchanged, before)
    Checked(members, _sample_below(work), missed).write(work, super_cell)
    sizes |= {"members": members, "unchanged": np.array([unchanged], np.int64), "missed": missed}
    write_arrays(work.store, work.path("end", "sizes", super_cell), sizes)
    return UnitResult(int(members[unchanged:, 0].sum()), len(missed))


def _check_members(work: Work, super_cell: int, first: int) -> Integers:
    """Return the number of members and their lowest cosine in steps, of the batches from `first` on -> (batches, 2)."""
    rescorer = work.rescorer()
    found = np.full((len(work.plan.batches) - first, 2), (0, to_steps(1.0)), np.int64)
    for batch in range(first, len(work.plan.batches)):
        home, members = work.home(batch, super_cell), read_members(work, super_cell, batch)
        rows = np.concatenate([home.read("row"), home.read("equal_row")])
        own = nodes(batch, super_cell, np.arange(len(rows)))
        at = np.flatnonzero(members.representative != own)
        at = at[np.argsort(members.representative[at], kind="stable")]
        if not len(at):
            continue
        of = look_up(work, members.representative[at], ["row", "pdq"] if work.options.with_pdq else ["row"])
        _check_represent(work, members.representative[at])
        batches = split_nodes(members.representative[at])[0]
        cosines = rescorer.cosines(np.full(len(at), batch), rows[at], batches, of["row"])
        bad = np.abs(cosines.astype(np.int32) - members.cosine[at]) > 1
        bad |= cosines < to_steps(work.options.candidates_from)
        if work.options.with_pdq:
            direct = at < home.rows("id")
            pdq = pdq_distance(home.read("pdq")[at[direct]], of["pdq"][direct])
            bad[direct] |= (cosines[direct] < to_steps(work.options.at)) & (pdq > 60)
        if bad.any():
            raise DedupError(
                f"{int(bad.sum())} members of {work.plan.batches[batch].name} are farther from their representative "
                "than was found: the embeddings or the work were changed meanwhile; search anew with --restart."
            )
        found[batch - first] = len(at), int(cosines.min())
    return found


def _check_represent(work: Work, representatives: Integers) -> None:
    """Raise DedupError unless all of these nodes are representatives."""
    batches, supers, places = split_nodes(representatives)
    for one in np.unique(supers).tolist():
        for batch in np.unique(batches[supers == one]).tolist():
            flags = flags_before(work, work.plan.end_round, one, batch)
            mine = (supers == one) & (batches == batch)
            if (flags[places[mine]] != Flag.REPRESENTATIVE).any():
                raise DedupError(f"A representative in {work.folder} is itself a member: search anew with --restart.")


def look_up(work: Work, found: Integers, names: list[str]) -> dict[str, Array]:
    """Return columns of homes by nodes, in their order."""
    batches, supers, places = split_nodes(found)
    if not len(found):
        return {name: work.home(0, 0).take(name, places) for name in names}
    columns: dict[str, Array] = {}
    unique = np.unique(batches << 16 | supers)
    for key in unique.tolist():
        mine = np.flatnonzero((batches << 16 | supers) == key)
        home = work.home(key >> 16, key & 0xFFFF)
        wanted, back = np.unique(places[mine], return_inverse=True)
        for name in names:
            values = home.take(name, wanted)
            if name not in columns:
                columns[name] = np.empty((len(found), *values.shape[1:]), values.dtype)
            columns[name][mine] = values[back]
    return columns


def _look_for_missed(work: Work, super_cell: int, unchanged: int, before: Checked) -> Integers:
    """Return the nodes of the sample that have another representative at the threshold in this super-cell."""
    sample = np.concatenate([work.open("end", "members", one).read("sample") for one in range(work.plan.super_cells)])
    if not len(sample):
        return sample
    of = look_up(work, sample, ["code", "row"])
    known = (split_nodes(sample)[0] < unchanged) & (_sample_below(work) <= before.below)
    threshold, rescorer = code_threshold(work.options.at, 1.0), work.rescorer()
    found = [np.intersect1d(before.missed, sample[known])]
    for batch in range(len(work.plan.batches)):
        asked = np.flatnonzero(~known) if batch < unchanged else np.arange(len(sample))
        codes = np.ascontiguousarray(widen(of["code"][asked]).T)
        home = work.home(batch, super_cell)
        kept = np.flatnonzero(flags_before(work, work.plan.end_round, super_cell, batch) == Flag.REPRESENTATIVE)
        rows, own = home.read("row"), nodes(batch, super_cell, np.arange(home.rows("id")))
        for start in range(0, len(kept) if len(asked) else 0, _ROWS_AT_ONCE):
            some = kept[start : start + _ROWS_AT_ONCE]
            left, right = places_from(widen(home.take("code", some)) @ codes, threshold)
            right = asked[right]
            other = own[some[left]] != sample[right]
            left, right = left[other], right[other]
            cosines = rescorer.cosines(
                np.full(len(left), batch), rows[some[left]], split_nodes(sample[right])[0], of["row"][right]
            )
            found.append(sample[right[cosines >= to_steps(work.options.at)]])
    return np.unique(np.concatenate(found))


def _sample_below(work: Work) -> np.uint64:
    return below_share(_all_rows(work), SAMPLE)


def wilson_upper(hits: int, tries: int) -> float:
    """Return the upper end of the 95 % Wilson interval of a share; 1 without tries."""
    return wilson(hits, tries)[1]


def _all_rows(work: Work) -> int:
    return sum(sum(batch.rows) for batch in work.plan.batches)
