"""`tracker index`: the plan of the build of a release's kNN index.

The steps and their units are those of `dataset.index.jobs`, computed from the counts of the release's records; a test
compares the two. A worker computes the plan again before the first step, and refuses one that does not fit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker.errors import TrackerError
from tracker.seeding.builds import Build
from tracker.seeding.release_embeddings import data_files, embeddings_by_batch
from tracker.seeding.releases import ReleaseRun, read_json

# As in dataset/index/kinds.py and plan.py.
EXACT_ROWS, PLAIN_ROWS, ROWS_PER_LIST, MAX_LISTS = 20_000, 2_000_000, 4_096, 2**20
MAX_RANGES, RANGE_ROWS, DESCRIBED_IDS = 1_024, 500_000, 500_000
UNIT_ROWS = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRequest:
    """The options of the command; `lists` 0 and the kind `auto` mean that the size decides."""

    model: str
    modality: str
    kind: str = "auto"
    lists: int = 0
    seed: int = 0
    further: bool = False
    """Add a segment to the index that exists, of the batches that are in none."""
    compact: bool = False
    """Replace all segments of the index that exists by one."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of `dataset.index.plan.IndexOptions`."""
        return {
            "model": self.model, "modality": self.modality, "kind": self.kind, "lists": self.lists, "batches": [],
            "further": self.further, "compact": self.compact, "seed": self.seed, "points_per_list": 64, "held_out": 512,
            "unit_rows": UNIT_ROWS, "build": "",
        }  # fmt: skip


def index_build(store: str, run: ReleaseRun, request: IndexRequest) -> Build:
    """Return the build of an index.

    Raises:
        TrackerError: the release has no such embeddings, or no index to add to.
    """
    embeddings = embeddings_by_batch(store, run, request.model)
    lists = None
    if request.further or request.compact:
        path = f"{run.run}/index/{request.model}/{request.modality}/index.json"
        record = read_json(store, path)
        if record is None:
            raise TrackerError(f"{run.run} has no {request.modality} index of {request.model}: build one first")
        lists = int(record["lists"])
        indexed = {batch for segment in record["segments"] for batch in segment["batches"]}
        embeddings = {batch: rows for batch, rows in embeddings.items() if (batch in indexed) is request.compact}
        if not embeddings:
            raise TrackerError(f"the index of {run.run} has all batches that have embeddings: there is nothing to add")
    counts = [rows for files in embeddings.values() for rows in files]
    kind = request.kind if request.kind != "auto" else kind_by_size(sum(counts))
    if lists is None:
        lists = 1 if kind == "flat" else request.lists or lists_by_size(sum(counts))
    described = [file for file in data_files(run) if file["batch"] in embeddings]
    plan = [
        ("train", 1),
        ("add", sum(-(-rows // UNIT_ROWS) for rows in counts)),
        ("describe", sum(-(-(file["last_id"] + 1 - file["first_id"]) // DESCRIBED_IDS) for file in described)),
        ("merge", max(1, min(MAX_RANGES, lists, -(-sum(counts) // RANGE_ROWS)))),
        ("finish", 1),
    ]
    return Build("index", f"{request.model}/{request.modality}", request.options, plan)


def kind_by_size(rows: int) -> str:
    """Return the kind of index for a number of rows."""
    if rows < EXACT_ROWS:
        return "flat"
    return "sq16" if rows <= PLAIN_ROWS else "rabitq"


def lists_by_size(rows: int) -> int:
    """Return the number of lists, a power of two: about 4 √rows up to PLAIN_ROWS, and about rows / ROWS_PER_LIST
    above.
    """
    if rows < 4:
        return 1
    wanted = 4 * math.sqrt(rows) if rows <= PLAIN_ROWS else rows / ROWS_PER_LIST
    return min(MAX_LISTS, 1 << round(math.log2(wanted)), 1 << int(math.log2(rows)))
