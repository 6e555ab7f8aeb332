"""Compare the tags of the parts with what was planted in the pictures, on which no head was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dataset.report.report import MeasuredRow
from dataset.store.store import Store
from dataset.tags.accuracy import AtThreshold, at_threshold
from tests.demo.checks import Check
from tests.demo.marks import truth_in

THRESHOLD = 0.5
ENOUGH = {"pwatermark": (0.95, 0.95), "punsafe": (0.9, 0.9)}  # precision and recall
CALLED = {"pwatermark": "watermarks", "punsafe": "the planted concept"}


@dataclass(frozen=True, slots=True)
class Found:
    """What a tag made of the kept samples; `untagged` are those where it is null."""

    counts: AtThreshold
    untagged: int


def read_tags(store: Store, manifest: pa.Table) -> dict[str, Found]:
    """Read both tags of every kept sample, and what is planted in it."""
    scores: dict[str, list[float | None]] = {tag: [] for tag in ENOUGH}
    truths: dict[str, list[bool]] = {tag: [] for tag in ENOUGH}
    for output in manifest.select(["kind", "path"]).to_pylist():
        if output["kind"] == "part":
            for row in store.read_table(f"{output['path']}.parquet", ["URL", *ENOUGH]).to_pylist():
                truth = truth_in(row["URL"])
                if truth is not None:
                    for tag, planted in (("pwatermark", truth.watermark), ("punsafe", truth.concept)):
                        scores[tag].append(row[tag])
                        truths[tag].append(planted)
    return {tag: counted(scores[tag], truths[tag]) for tag in ENOUGH}


def counted(scores: Sequence[float | None], truths: Sequence[bool]) -> Found:
    """Count what the threshold makes of tags."""
    tagged = [(score, truth) for score, truth in zip(scores, truths, strict=True) if score is not None]
    values = np.array([score for score, _ in tagged], np.float64)
    labels = np.array([truth for _, truth in tagged], np.int64)
    return Found(at_threshold(values, labels, THRESHOLD), len(scores) - len(tagged))


def check_tags(found: Mapping[str, Found]) -> list[Check]:
    """Ask whether every kept sample is tagged, and whether the tags find what was planted."""
    untagged = sum(of.untagged for of in found.values())
    checks = [Check("every kept sample is tagged", untagged == 0 and bool(found), f"{untagged:,} tags are missing")]
    for tag, of in found.items():
        precision, recall = ENOUGH[tag]
        holds = of.counts.precision >= precision and of.counts.recall >= recall  # false for NaN
        checks.append(Check(f"{tag} finds {CALLED[tag]}", holds, _said(of.counts)))
    return checks


def measured_rows(found: Mapping[str, Found], trained: Mapping[str, Any]) -> list[MeasuredRow]:
    """Return the report's rows on the quality of the tags and the model."""
    rows = []
    for tag, of in found.items():
        planted = of.counts.true_positives + of.counts.false_negatives
        on = f"{planted:,} planted among the kept pairs of this crawl, threshold {THRESHOLD}"
        rows.append(MeasuredRow(f"{tag}: precision, recall", _said(of.counts), on))
        rows.append(MeasuredRow(f"{tag}: ROC AUC", f"{trained[tag]['auc']:.3f}", "held-out pictures"))
    on = f"{trained['pictures']:,} fresh pictures, the right caption first among 100 (chance: 1 %)"
    return [*rows, MeasuredRow("the model: R@1", f"{100 * trained['recall_at_1']:.1f} %", on)]


def _said(counts: AtThreshold) -> str:
    return f"precision {100 * counts.precision:.1f} %, recall {100 * counts.recall:.1f} %"
