"""Prompts with which a model may repeat its training pictures: the best captions of the most duplicated groups."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dataset.dedup.explain import read_options
from dataset.formats.duplicates import NAME
from dataset.formats.releases import Release
from dataset.side_tables.rows import ReleaseRows, RowGroup
from dataset.stats.threads import map_in_order

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The caption with the highest similarity in a group."""

    prompt: str
    group_size: int
    hosts: int
    representative: int
    url: str


def most_duplicated(
    release: Release, count: int, *, threads: int = 1, on_progress: Progress = lambda *_: None
) -> list[Prompt]:
    """Return a prompt for each of the `count` largest groups, the largest first; equal prompts once.

    Raises: DedupError when near-duplicates were not searched for; StoreError.
    """
    read_options(release)
    rows = ReleaseRows.open(release)
    groups = list(rows.row_groups())
    largest: dict[str, Prompt] = {}
    read = map_in_order(lambda group: _largest(rows, group, count), groups, threads)
    for done, some in enumerate(read, 1):
        for one in some:
            known = largest.get(one.prompt)
            if known is None or _rank(one) > _rank(known):
                largest[one.prompt] = one
        largest = {one.prompt: one for one in heapq.nlargest(count, largest.values(), key=_rank)}
        on_progress("reading", done, len(groups))
    return sorted(largest.values(), key=_rank, reverse=True)


def _rank(one: Prompt) -> tuple[int, int]:
    return one.group_size, -one.representative


def _largest(rows: ReleaseRows, group: RowGroup, count: int) -> list[Prompt]:
    names = ["id", "URL", *(f"{NAME}.{name}" for name in ("representative", "group_size", "hosts", "top_caption"))]
    table = rows.read(group, names)
    ids, size = table["id"].to_numpy(), table[f"{NAME}.group_size"].fill_null(0).to_numpy()
    leaders = np.flatnonzero((table[f"{NAME}.representative"].fill_null(-1).to_numpy() == ids) & (size > 1))
    chosen = leaders[np.lexsort((ids[leaders], -size[leaders]))]
    found: dict[str, Prompt] = {}
    for start in range(0, len(chosen), 10_000):
        for row in table.take(chosen[start : start + 10_000]).to_pylist():
            if len(found) == count:
                return list(found.values())
            text = " ".join(row[f"{NAME}.top_caption"].split())
            one = Prompt(text, row[f"{NAME}.group_size"], row[f"{NAME}.hosts"], row["id"], row["URL"])
            found.setdefault(text, one)
    return list(found.values())
