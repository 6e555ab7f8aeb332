"""The model card of a picture classifier: a README.md with a header as the Hugging Face Hub reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

from dataset.recipe.tags import Tag
from dataset.tags.picture_heads import PictureLayout
from dataset.tags.picture_measures import MIDDLE, MeasuredClassifier, Slice
from dataset.tags.picture_training import PictureSchedule
from dataset.tags.prevalence import AtPrevalence, Share

BAR = 20  # characters


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says besides the measurements; `rows` are the numbers of pictures and positives by split."""

    tag: Tag
    layout: PictureLayout
    schedule: PictureSchedule
    losses: Sequence[float]
    data: str
    """One sentence on where pictures and labels come from."""
    guideline: str
    rows: Sequence[tuple[str, int, int]]
    left_out: int
    """Labelled pictures that are missing or cannot be decoded."""


def classifier_card(facts: CardFacts, measured: MeasuredClassifier) -> str:
    """Return the card (Markdown)."""
    layout, schedule, half = facts.layout, facts.schedule, measured.half
    splits = "\n".join(f"| {name} | {rows:,} | {ones:,} |" for name, rows, ones in facts.rows)
    curve = "\n".join(_table_row(row) for row in measured.table)
    lowest = min(facts.losses)
    best = list(facts.losses).index(lowest) + 1
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags: [{facts.tag}]
---

# A classifier for `{facts.tag}`

{layout.architecture} of timm on squares of {layout.side} x {layout.side} pixels; the score is the probability of
`{layout.classes[0]}` against `{layout.classes[1]}`. Use it in a recipe after `dataset heads add`, or for a finished
release with `dataset tag`. Loading the file runs no code.

## Data

{facts.data}

Near-duplicates are in one split. {facts.left_out:,} labelled pictures are left out, because they are missing or cannot
be decoded.

| split | pictures | `{layout.classes[0]}` |
| --- | --- | --- |
{splits}

{_guideline(facts.guideline)}
## Accuracy at real prevalence

Measured on the test pictures, which were used neither in training nor for the calibration, each with its sampling
weight. Intervals are of 95 % (Wilson). Prevalence: {_said(measured.prevalence)}. ROC AUC: {measured.auc:.4f}.

At {MIDDLE}: precision {_said(half.precision)}, recall {_said(half.recall)}.

| threshold | called | precision | recall | |
| --- | --- | --- | --- | --- |
{curve}

{_slices(measured.slices)}
## Training

{schedule.epochs} epochs of AdamW at {schedule.learning_rate:g} (one cycle), batches of {schedule.batch_pictures},
weight decay {schedule.weight_decay:g}, seed {schedule.seed}. Epoch {best} had the lowest validation loss, {lowest:.4f}.
Pictures were varied in size within the square, brightness, contrast, saturation and grain; nothing was cut off.
Probabilities are calibrated on the validation pictures (Platt). Matrices are stored in half precision, and the
accuracy is that of the stored values.
"""


def _guideline(guideline: str) -> str:
    quoted = "\n".join(f"> {line}".rstrip() for line in guideline.strip().splitlines())
    return f"The guideline of the labels:\n\n{quoted}\n" if quoted else ""


def _slices(slices: Sequence[Slice]) -> str:
    if not slices:
        return ""
    rows = "\n".join(
        f"| {one.column} | {_escaped(one.value)} | {one.rows:,} | {one.positives:,} | {_said(one.half.precision)} | "
        f"{_said(one.half.recall)} |"
        for one in slices
    )
    return f"""At {MIDDLE}, by slices of the test pictures:

| column | value | pictures | positives | precision | recall |
| --- | --- | --- | --- | --- | --- |
{rows}
"""


def _table_row(row: AtPrevalence) -> str:
    bar = "█" * round(BAR * row.recall.share) if row.recall.rows else ""
    return (
        f"| {row.threshold} | {100 * row.called.share:.2f} % | {_said(row.precision)} | {_said(row.recall)} | {bar} |"
    )


def _said(share: Share) -> str:
    if not share.rows:
        return "no picture"
    return f"{100 * share.share:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
