"""Measures the demo's watermark detector on held-out pictures: `python -m tests.demo.measure_watermark`.

Prints one JSON line, and writes it and the detector's card beside the detector: precision and recall with their 95 %
intervals at LAION's share of watermarks, on 5,000 pictures without a mark and 600 with one. Their marks, places,
opacities, typefaces and backgrounds are not those of training.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset.tags.heads import HeadFile, read_head_file
from dataset.tags.picture_card import CardFacts, classifier_card
from dataset.tags.picture_heads import PictureHead, PictureLayout, load_picture_head
from dataset.tags.picture_measures import MeasuredClassifier, measure_classifier
from dataset.tags.picture_training import PictureSchedule
from dataset.tags.prevalence import weights_at
from tests.demo.marked_pictures import draw_held_out

DETECTOR = Path(__file__).parent / "watermark" / "detector.safetensors"
MEASURED = DETECTOR.with_name("measured.json")
PREVALENCE = 0.06  # laion.ai/blog/laion-5b: 6.1 % of the English pairs have a pwatermark above 0.8
CLEAN, MARKED, SEED = 5_000, 600, 40_000


@dataclass(frozen=True, slots=True)
class MeasuredDetector:
    """The accuracy of a detector, and the CPU time that it takes per picture, in milliseconds."""

    classifier: MeasuredClassifier
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the printed values."""
        half = self.classifier.half
        return {
            "clean": CLEAN,
            "marked": MARKED,
            "prevalence": PREVALENCE,
            "auc": round(self.classifier.auc, 5),
            "precision": half.precision.to_json(),
            "recall": half.recall.to_json(),
            "cpu_ms_per_picture": round(self.milliseconds, 2),
        }


def measure(head: PictureHead, processes: int) -> MeasuredDetector:
    """Draw the held-out pictures, and measure a detector on them."""
    clean = draw_held_out(CLEAN, SEED, processes, marked=False)
    marked = draw_held_out(MARKED, SEED + 1, processes, marked=True)
    labels = np.concatenate([clean.labels, marked.labels])
    started = time.process_time()
    scores = np.concatenate([head.score(drawn.squares) for drawn in (clean, marked)]).astype(np.float64)
    took = 1000 * (time.process_time() - started) / len(labels)
    weights = weights_at(labels, np.ones(len(labels)), PREVALENCE)
    letters = np.concatenate([clean.lettered, marked.lettered])
    shows = ["a watermark" if label else "opaque lettering" if letter else "neither"
             for label, letter in zip(labels, letters, strict=True)]  # fmt: skip
    return MeasuredDetector(measure_classifier(scores, labels, weights, {"picture shows": shows}), took)


def card(file: HeadFile, measured: MeasuredDetector) -> str:
    """Return the detector's card."""
    about = file.said["about"]
    rows = [(name, about["rows"][name], about["rows"][name] // 2) for name in ("training", "validation")]
    data = (
        "Drawn pictures of `tests/demo/marked_pictures.py`, for the demo and the tests only. Words, typefaces,\n"
        "places, angles and opacities of the marks in the test, and what is below, are not those of training."
    )
    facts = CardFacts(
        tag=file.tag,
        layout=PictureLayout.from_json(file.said),
        schedule=PictureSchedule(**about["schedule"]),
        losses=about["losses"],
        data=data,
        guideline="",
        rows=[*rows, ("test", CLEAN + MARKED, MARKED)],
        left_out=0,
    )
    return classifier_card(facts, measured.classifier)


def main() -> None:
    argparse.ArgumentParser(
        prog="tests.demo.measure_watermark", description="Measure the demo's detector."
    ).parse_args()
    torch.set_num_threads(1)
    file = read_head_file(DETECTOR)
    measured = measure(load_picture_head(file, "cpu"), os.cpu_count() or 1)
    said = json.dumps(measured.to_json())
    MEASURED.write_text(f"{said}\n", encoding="utf-8")
    DETECTOR.with_name("README.md").write_text(card(file, measured), encoding="utf-8")
    print(said)


if __name__ == "__main__":
    main()
