"""What the answers of a task say so far: counts, agreement, prevalence; and the labels as a file."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from dataset.formats.label_files import FORMAT, SCHEMA, LabelFile, LabelRecord, Split
from dataset.label.agreement import cohen_kappa, krippendorff_alpha
from dataset.label.drawing import share_of
from dataset.label.drawn_file import Drawn
from dataset.label.labels import Decision, Labels
from dataset.label.prevalence import estimate
from dataset.label.sessions import LabelItem, hidden_items
from dataset.label.tasks import Task

_OVERLAP_SEED = 3 << 40


def items_of(drawn: Drawn, task: Task) -> list[LabelItem]:
    """Return the drawn pictures in the order in which they are shown."""
    rows = drawn.rows.select(["id", "group", "hash", "sha256"]).to_pylist()
    often = share_of(drawn.rows["group"].to_numpy(), task.seed + _OVERLAP_SEED) < task.overlap
    return [
        LabelItem(**row, wanted=task.annotators if several else 1)
        for row, several in zip(rows, often.tolist(), strict=True)
    ]


def decisions(drawn: Drawn, task: Task, labels: Labels) -> dict[int, Decision]:
    """Return the pictures that have a label, unclear or not, by id."""
    items = items_of(drawn, task)
    hidden = hidden_items(items, labels.reported)
    found = {one.id: labels.decision(one.id, one.wanted) for one in items if one.id not in hidden}
    return {item: one for item, one in found.items() if one is not None}


def summarize(drawn: Drawn, task: Task, labels: Labels) -> dict[str, Any]:
    """Return counts, agreement and prevalence, as `dataset label --report --json` prints them."""
    decided = decisions(drawn, task, labels)
    items = items_of(drawn, task)
    hidden = hidden_items(items, labels.reported)
    unclear = {one.name for one in task.classes if one.unclear}
    rows = drawn.rows.to_pylist()
    splits = {
        split.value: {
            "pictures": sum(row["split"] == split for row in rows),
            "labels": dict(Counter(decided[row["id"]].label for row in rows
                                   if row["split"] == split and row["id"] in decided)),
        }
        for split in Split
    }  # fmt: skip
    rated = [one for item, one in labels.rated() if item not in hidden]
    return {
        "task": task.name,
        "guideline_version": task.guideline_version,
        "release": drawn.record.release,
        "version": drawn.record.version,
        "pictures": len(rows),
        "labelled": len(decided),
        "unclear": sum(one.label in unclear for one in decided.values()),
        "disputed": sum(labels.disputed(one.id, one.wanted) for one in items if one.id not in hidden),
        "hidden": len(hidden),
        "splits": splits,
        "annotators": dict(sorted(Counter(who for one in rated for who in one).items())),
        "agreement": _agreement(rated),
        "prevalence": {
            one.name: asdict(_prevalence(drawn, decided, unclear, one.name)) for one in task.classes if not one.unclear
        },
    }


def export(drawn: Drawn, task: Task, labels: Labels) -> LabelFile:
    """Return the labels, without the unclear ones."""
    decided = decisions(drawn, task, labels)
    unclear = {one.name for one in task.classes if one.unclear}
    rows = []
    for row in drawn.rows.to_pylist():
        one = decided.get(row["id"])
        if one is not None and one.label not in unclear:
            last = max(one.answers, key=lambda answer: answer.time)
            names = ",".join(sorted({answer.annotator for answer in one.answers}))
            rows.append(
                row | {"label": one.label, "annotator": names, "time": last.time, "guideline": last.guideline}
            )  # fmt: skip
    record = LabelRecord(
        format=FORMAT,
        task=task.name,
        release=drawn.record.release,
        version=drawn.record.version,
        classes=tuple(one.name for one in task.classes if not one.unclear),
        guideline_version=task.guideline_version,
        guideline=task.guideline,
        seed=task.seed,
    )
    return LabelFile(record, pa.Table.from_pylist(rows, schema=SCHEMA))


def _agreement(rated: list[Mapping[str, str]]) -> dict[str, Any]:
    several = [one for one in rated if len(one) > 1]
    pairs = []
    for first, second in combinations(sorted({who for one in several for who in one}), 2):
        both = [(one[first], one[second]) for one in several if first in one and second in one]
        if both:
            pairs.append({"annotators": [first, second], "pictures": len(both), "kappa": cohen_kappa(both)})
    return {"pictures": len(several), "alpha": krippendorff_alpha(several), "pairs": pairs}


def _prevalence(drawn: Drawn, decided: Mapping[int, Decision], unclear: set[str], name: str) -> Any:
    tallies: dict[int, list[int]] = {}
    at_random = drawn.rows.filter(pa.array(np.array(drawn.rows["stratum"].is_valid())))
    for row in at_random.select(["id", "stratum"]).to_pylist():
        one = decided.get(row["id"])
        if one is not None and one.label not in unclear:
            tally = tallies.setdefault(row["stratum"], [0, 0])
            tally[0] += 1
            tally[1] += one.label == name
    strata = [one.rows for one in drawn.record.strata]
    return estimate(strata, {at: (given, ones) for at, (given, ones) in tallies.items()})
