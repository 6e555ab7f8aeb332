"""`tracker dedup`: the plan of a search for a release's near-duplicates.

The steps and their units are those of `dataset.dedup.jobs`, computed from the counts of the release's records and of
the search before; a test compares the two. A worker computes the plan again before the first step, and refuses one that
does not fit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracker.errors import TrackerError
from tracker.seeding.builds import Build
from tracker.seeding.release_embeddings import data_files, embeddings_by_batch
from tracker.seeding.releases import ReleaseRun, read_json

# As in dataset/dedup/work.py.
ROUNDS, ROUND_ROWS, ONE_ROUND, MAX_SUPER_CELLS = 7, 512, 4, 1024
ASKED = ("at", "careful", "with_pdq", "pdq_from", "quality")
QUALITY = ("safe", "watermark", "size", "similarity", "pixels", "hash")


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupRequest:
    """The options of the command."""

    model: str
    at: float
    careful: bool = False
    with_pdq: bool = False
    pdq_from: float = 0.90
    quality: Sequence[str] = QUALITY

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of `dataset.dedup.options.Options`."""
        return {
            "model": self.model, "at": self.at, "careful": self.careful, "with_pdq": self.with_pdq,
            "pdq_from": self.pdq_from, "quality": list(self.quality), "super_cells": 0, "cells": 0,
        }  # fmt: skip


def dedup_build(store: str, run: ReleaseRun, request: DedupRequest, *, restart: bool = False) -> Build:
    """Return the build of the side table; without `restart`, batches that were searched before get no new round.

    Raises:
        TrackerError: the release has no such embeddings, or was searched with other options.
    """
    batches = {name: rows for name, rows in embeddings_by_batch(store, run, request.model).items() if sum(rows)}
    state = None if restart else read_json(store, state_path(run, request.model))
    if state is not None and any(state[name] != request.options[name] for name in ASKED):
        said = ", ".join(f"{name} {state[name]}" for name in ASKED)
        raise TrackerError(
            f"{run.run} was searched with {said}: give the same options, or search all batches again with --restart"
        )
    known = len(state["batches"]) if state else 0
    supers = int(state["super_cells"]) if state else _super_cells(sum(next(iter(batches.values()))))
    data = data_files(run)
    new = list(batches)[known:]
    plan = []
    if new:
        embeddings = sum(len(batches[name]) for name in new)
        plan += [("ids", embeddings), ("quality", sum(file["batch"] in new for file in data)), ("train", 1)]
        plan += [("layout", embeddings), *((f"gather-{at}", supers) for at in range(known, len(batches)))]
    first, end = _rounds(batches, known)
    for at in range(first, end):
        plan += [(f"new-{at}", supers), (f"merge-{at}", supers), (f"rest-{at}", supers), (f"sweep-{at}", 1)]
    plan += [("count", supers), ("verify", supers), ("result", supers)]
    plan += [("texts", len(data)), ("write", len(data)), ("finish", 1), ("clean", 1)]
    return Build("dedup", request.model, request.options, plan)


def state_path(run: ReleaseRun, model: str) -> str:
    """Return the path in the store of the record of searched batches; without it, a search starts from the
    beginning.
    """
    major = str(run.release["version"]).partition(".")[0]
    return f"dedup/{run.run.removeprefix('releases/')}/v{major}/{model}/state.json"


def _rounds(batches: Mapping[str, Sequence[int]], known: int) -> tuple[int, int]:
    """Return the first round of the batches from `known` on, and the number after the last round."""
    first, end, before = 0, 0, 0
    for at, rows in enumerate(map(sum, batches.values())):
        first = end if at == known else first
        doubling = min(ROUNDS, max(1, math.ceil(math.log2(max(1.0, rows / ROUND_ROWS)) + 1)))
        end += (1 if before and rows * ONE_ROUND <= before else doubling) + 1
        before += rows
    return (end if known >= len(batches) else first), end


def _super_cells(rows: int) -> int:
    return min(MAX_SUPER_CELLS, 1 << max(0, round(math.log2(max(1.0, math.sqrt(rows) / 62)))))
