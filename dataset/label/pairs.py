"""Draw (member, representative) pairs by cosine and group size: at most one a group, the same for the same seed."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from dataset.formats.duplicates import NAME
from dataset.select.candidates import priorities
from dataset.side_tables.rows import ReleaseRows, RowGroup
from dataset.stats.threads import map_in_order

EDGES = (0.88, 0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98)
"""Lower edges of the cosine's bins."""
SIZES = (2, 3, 10, 100)
"""Lower edges of the classes of group sizes."""
_SPARE = 4
"""Pairs per stratum that are kept for each that is wanted: another stratum may take the group."""

Stratum = tuple[int, int]


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """A drawn pair; those with a low priority come first."""

    priority: int
    member: int
    representative: int
    stratum: Stratum
    """Places in EDGES and SIZES."""


@dataclass(slots=True)
class Draw:
    """The pairs, in the order in which they are shown, and the number of all pairs by stratum."""

    pairs: list[Pair]
    counts: dict[Stratum, int] = field(default_factory=dict)


def draw_pairs(rows: ReleaseRows, wanted: int, seed: int, *, threads: int = 1) -> Draw:
    """Draw up to `wanted` pairs of each stratum from the kind near, whose cosine decides."""
    best: dict[Stratum, dict[int, Pair]] = {}
    counts: dict[Stratum, int] = {}
    for found, sizes in map_in_order(lambda group: _read(rows, group, wanted, seed), list(rows.row_groups()), threads):
        for stratum, count in sizes.items():
            counts[stratum] = counts.get(stratum, 0) + count
            best[stratum] = _lowest([*best.get(stratum, {}).values(), *found[stratum].values()], wanted)
    taken: set[int] = set()
    left = dict.fromkeys(counts, wanted)
    chosen = []
    for pair in sorted(pair for some in best.values() for pair in some.values()):
        if pair.representative not in taken and left[pair.stratum]:
            taken.add(pair.representative)
            left[pair.stratum] -= 1
            chosen.append(pair)
    return Draw(chosen, dict(sorted(counts.items())))


def _read(
    rows: ReleaseRows, group: RowGroup, wanted: int, seed: int
) -> tuple[dict[Stratum, dict[int, Pair]], dict[Stratum, int]]:
    names = [f"{NAME}.{name}" for name in ("representative", "cosine", "group_size", "kind")]
    table = rows.read(group, ["id", *names])
    table = table.filter(pc.equal(table[f"{NAME}.kind"], "near"))
    ids, representative, cosine, size = (table[name].to_numpy() for name in ("id", *names[:3]))
    bins = np.maximum(np.searchsorted(EDGES, cosine + 1e-5, side="right") - 1, 0)
    classes = np.searchsorted(SIZES, size, side="right") - 1
    drawn = priorities(ids, seed)
    found: dict[Stratum, dict[int, Pair]] = {}
    counts: dict[Stratum, int] = {}
    for at in np.unique(bins * len(SIZES) + classes).tolist():
        stratum = divmod(at, len(SIZES))
        mine = np.flatnonzero(bins * len(SIZES) + classes == at)
        mine = mine[np.argsort(drawn[mine])]
        firsts = np.sort(np.unique(representative[mine], return_index=True)[1])[: _SPARE * wanted]
        mine_first = mine[firsts].tolist()
        counts[stratum] = len(mine)
        found[stratum] = _lowest(
            [Pair(int(drawn[one]), int(ids[one]), int(representative[one]), stratum) for one in mine_first], wanted
        )
    return found, counts


def _lowest(pairs: Iterable[Pair], wanted: int) -> dict[int, Pair]:
    """Return the first pair of each group, by representative, of the groups that come first."""
    kept: dict[int, Pair] = {}
    for pair in sorted(pairs):
        if len(kept) == _SPARE * wanted:
            break
        kept.setdefault(pair.representative, pair)
    return kept
