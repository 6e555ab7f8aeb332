"""The funnel of a run: the outcomes of its links, the filter's verdicts on its pairs, and the similarities of kept and
dropped pairs.

It is counted from the shards and parts that the manifest lists, one table at a time, and can be merged like `Counts`.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.parts import Verdict
from dataset.pictures.outcomes import NOT_WANTED, Outcome
from dataset.stats.threads import map_in_order
from dataset.store.store import Store

BIN_EDGES = np.linspace(-1.0, 1.0, 101)


class ScoringModel(NamedTuple):
    """The name of a model that scored pairs, as it is shown, and its threshold."""

    name: str
    threshold: float


@dataclass(slots=True)
class Funnel:
    """The counts of a run's links and pairs; bins (100,) int64 over BIN_EDGES, by model."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Finished links by outcome."""
    waiting: Counter[str] = field(default_factory=Counter)
    """Retried attempts, including those still to be retried, by reason."""
    fetched_by_language: Counter[str] = field(default_factory=Counter)
    """'' counts rows without a language."""
    kept_by_language: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    kept_bins: dict[ScoringModel, npt.NDArray[np.int64]] = field(default_factory=dict)
    dropped_bins: dict[ScoringModel, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def states(self) -> dict[str, int]:
        """Finished links by state: live, changed, dead, or not wanted (whether these are alive is unknown)."""
        success, changed = self.outcomes[Outcome.SUCCESS], self.outcomes[Outcome.CHANGED]
        unknown = sum(self.outcomes[outcome] for outcome in NOT_WANTED)
        dead = self.outcomes.total() - success - changed - unknown
        return {"live": success, "changed": changed, "dead": dead, "not_wanted": unknown}

    def add(self, other: Self) -> None:
        """Merge another funnel into this one."""
        for mine, others in (
            (self.outcomes, other.outcomes),
            (self.waiting, other.waiting),
            (self.fetched_by_language, other.fetched_by_language),
            (self.kept_by_language, other.kept_by_language),
            (self.verdicts, other.verdicts),
        ):
            mine.update(others)
        for bins, other_bins in ((self.kept_bins, other.kept_bins), (self.dropped_bins, other.dropped_bins)):
            for model, counts in other_bins.items():
                bins[model] = bins.get(model, 0) + counts


def gather_funnel(store: Store, shards: Iterable[str], parts: Iterable[tuple[str, str | None]]) -> Funnel:
    """Count shards, by their paths without extension, and parts, by path and subset.

    Raises: StoreError when a file is missing or damaged.
    """
    total = Funnel()
    for one in map_in_order(partial(count_shard, store), shards):
        total.add(one)
    for one in map_in_order(partial(count_part, store), parts):
        total.add(one)
    return total


def count_shard(store: Store, path: str) -> Funnel:
    """Count the links of one shard."""
    table = store.read_table(f"{path}.parquet", ["outcome", "final", "language"])
    final = table.filter(pc.field("final"))
    return Funnel(
        outcomes=_counts(final["outcome"]),
        waiting=_counts(table.filter(~pc.field("final"))["outcome"]),
        fetched_by_language=_counts(final.filter(pc.field("outcome") == "success")["language"]),
    )


def count_part(store: Store, part: tuple[str, str | None]) -> Funnel:
    """Count the pairs of one part, given by its path and subset."""
    path, subset = part
    scores = store.read_table(f"{path}.scores.parquet", ["similarity", "reason"])
    model = _model(scores, "en" if subset == "en" else "other")
    scored = scores.filter(pc.field("similarity").is_valid())
    kept = pc.equal(scored["reason"], Verdict.KEPT.value)
    return Funnel(
        kept_by_language=_counts(store.read_table(f"{path}.parquet", ["LANGUAGE"])["LANGUAGE"]),
        verdicts=_verdicts(scores),
        kept_bins={model: _bins(scored.filter(kept))},
        dropped_bins={model: _bins(scored.filter(pc.invert(kept)))},
    )


def _bins(scores: pa.Table) -> npt.NDArray[np.int64]:
    counts, _ = np.histogram(scores["similarity"].to_numpy(), BIN_EDGES)
    return counts


def _model(scores: pa.Table, role: str) -> ScoringModel:
    """Read the model that scored a part, and its threshold, from the part's metadata."""
    models = json.loads((scores.schema.metadata or {}).get(b"shoal.models", b"{}"))
    spec: dict[str, Any] = models.get(role, {"model": role, "threshold": 0.0})
    languages = "English" if role == "en" else "other languages"
    return ScoringModel(f"{spec['model']} ({languages})", float(spec["threshold"]))


def _verdicts(scores: pa.Table) -> Counter[str]:
    """Count a part's verdicts, including those without rows; parts of old versions have only rows."""
    said = (scores.schema.metadata or {}).get(b"shoal.verdicts")
    return Counter(json.loads(said)) if said else _counts(scores["reason"])


def _counts(column: pa.ChunkedArray) -> Counter[str]:
    """Count a column's values; null is ''."""
    return Counter({row["values"] or "": row["counts"] for row in pc.value_counts(column).to_pylist()})
