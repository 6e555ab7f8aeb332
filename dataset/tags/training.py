"""Train a head: from embeddings and labels to a small network with calibrated probabilities, and its model card.

    split, stratified and seeded → normalise by the training rows → Adam until the validation loss stops falling
    → Platt scaling on the validation rows → measure on the test rows, which were not used before

Classes may have any sizes: probabilities are calibrated for the mix of the given labels. Source of the architecture:
LAION's NSFW heads (normalisation, ReLU layers, sigmoid); the one for L/14 reached an accuracy of 0.961 on 3,000
balanced samples.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dataset.recipe.tags import Tag
from dataset.tags.accuracy import AtThreshold, Labels, at_threshold, by_threshold, roc_auc
from dataset.tags.calibration import platt
from dataset.tags.heads import Embedder, Head, Layer, Output, Rows
from dataset.tags.labels import LabelledError
from dataset.tags.prevalence import AtPrevalence, Share, Weights, table_at_prevalence

SHARES = (0.7, 0.15, 0.15)  # of training, validation and test rows
MIN_OF_EACH = 20  # rows per label, so that 3 are in the validation and 3 in the test rows
MIN_IN_SPLIT = 3  # rows per label in each part of a split that is given
MIN_DEVIATION = 1e-4  # of a dimension that does not vary; CLIP's vary by about 0.03
THRESHOLDS = tuple(round(step / 10, 1) for step in range(1, 10))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The hyperparameters of training."""

    hidden: tuple[int, ...] = (64,)
    seed: int = 0
    max_epochs: int = 200
    patience: int = 10  # epochs without a better validation loss
    batch_rows: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2


@dataclass(frozen=True, slots=True)
class Measured:
    """A head's accuracy on the test rows; `rows` are the numbers of training, validation and test rows."""

    rows: tuple[int, int, int]
    positives: int  # of the test rows
    epochs: int
    auc: float
    half: AtThreshold
    table: tuple[AtThreshold, ...]
    release: tuple[AtPrevalence, ...] = ()
    """The same thresholds in the data that the test rows stand for; () without sampling weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers, int64; each row is in one of the three."""

    training: Labels
    validation: Labels
    test: Labels


def split_rows(labels: Labels, seed: int) -> Split:
    """Split rows at random by SHARES, each label by itself, so that all three parts have the same mix.

    Raises: LabelledError when a label has fewer than MIN_OF_EACH rows.
    """
    rng = np.random.default_rng(seed)
    places: list[list[Labels]] = [[], [], []]
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < MIN_OF_EACH:
            raise LabelledError(f"Only {len(rows)} rows have the label {label}: give at least {MIN_OF_EACH} of each.")
        first, second = round(len(rows) * SHARES[0]), round(len(rows) * (SHARES[0] + SHARES[1]))
        for gathered, part in zip(places, np.split(rows, [first, second]), strict=True):
            gathered.append(part)
    return Split(*(np.sort(np.concatenate(parts)) for parts in places))


def check_split(split: Split, labels: Labels) -> Split:
    """Return a split that was given.

    Raises: LabelledError when a part of it has fewer than MIN_IN_SPLIT rows of a label.
    """
    for name, rows in zip(("train", "validation", "test"), _parts(split), strict=True):
        for label in (0, 1):
            if (count := np.count_nonzero(labels[rows] == label)) < MIN_IN_SPLIT:
                raise LabelledError(
                    f"Only {count} rows of the split {name} have the label {label}: label at least {MIN_IN_SPLIT}."
                )
    return split


def train_head(
    embeddings: Rows,
    labels: Labels,
    tag: Tag,
    embedder: Embedder,
    schedule: Schedule = Schedule(),
    on_epoch: Callable[[int, float], None] = lambda _epoch, _loss: None,
    split: Split | None = None,
    weights: Weights | None = None,
) -> tuple[Head, Measured]:
    """Train a head on `embeddings` (N, D) float32 unit rows with `labels` (N,) of 0 and 1.

    `on_epoch` is called with each epoch and its validation loss; without a `split` the rows are split at random. With
    sampling `weights` (N,) the head is also measured for the data that the test rows stand for. On one machine, equal
    arguments give the same head.

    Raises: LabelledError when a label has too few rows.
    """
    split = split_rows(labels, schedule.seed) if split is None else check_split(split, labels)
    mean = embeddings[split.training].mean(axis=0)
    scale = (1 / np.maximum(embeddings[split.training].std(axis=0), MIN_DEVIATION)).astype(np.float32)
    normal = (embeddings - mean) * scale
    with _one_thread():
        layers, epochs = _fitted(normal, labels, split, schedule, on_epoch)
    head = Head(tag, layers, Output.SIGMOID, embedder, mean=mean, scale=scale)
    slope, shift = platt(head.logits(embeddings[split.validation]).astype(np.float64), labels[split.validation])
    head = head.calibrated(slope, shift)
    of_test = None if weights is None else weights[split.test]
    measured = measure(head, embeddings[split.test], labels[split.test], (*map(len, _parts(split)),), epochs, of_test)
    return head, measured


def measure(
    head: Head, embeddings: Rows, labels: Labels, rows: Sequence[int], epochs: int, weights: Weights | None = None
) -> Measured:
    """Return a head's accuracy on labelled rows, with sampling `weights` also in the data that they stand for."""
    scores = head.score(embeddings).astype(np.float64)
    return Measured(
        rows=(rows[0], rows[1], rows[2]),
        positives=int(labels.sum()),
        epochs=epochs,
        auc=roc_auc(scores, labels),
        half=at_threshold(scores, labels, 0.5),
        table=tuple(by_threshold(scores, labels, THRESHOLDS)),
        release=() if weights is None else table_at_prevalence(scores, labels, weights, THRESHOLDS),
    )


def card(head: Head, measured: Measured, schedule: Schedule, name: str) -> str:
    """Return the model card (Markdown)."""
    rows = "\n".join(
        f"| {row.threshold} | {row.accuracy:.3f} | {row.precision:.3f} | {row.recall:.3f} | {row.called:.3f} |"
        for row in measured.table
    )
    widths = " → ".join(str(layer.weight.shape[1]) for layer in head.layers) + " → 1"
    training, validation, test = measured.rows
    release = ""
    if measured.release:
        of_release = "\n".join(f"| {' | '.join(row.values())} |" for row in release_rows(measured))
        release = f"""
In the release, by the sampling weights of the test rows, with 95 % intervals:

| threshold | called | precision | recall |
| --- | --- | --- | --- |
{of_release}
"""
    return f"""# {name}: a head for `{head.tag}`

Reads unit image embeddings of {head.embedder.model} (weights {head.embedder.sha256 or "not recorded"}), {widths}.

On {test:,} rows used in neither training nor calibration, {measured.positives:,} of them positive:
accuracy {measured.half.accuracy:.3f}, precision {measured.half.precision:.3f}, recall {measured.half.recall:.3f} at
0.5; ROC AUC {measured.auc:.4f}.

| threshold | accuracy | precision | recall | called |
| --- | --- | --- | --- | --- |
{rows}
{release}
Trained on {training:,} rows, calibrated (Platt) on {validation:,}, {measured.epochs} epochs, seed {schedule.seed}.
Probabilities are calibrated for the mix of labels that it was trained on. Add what the labels mean, and for which
pictures they may be wrong.
"""


def release_rows(measured: Measured) -> list[dict[str, str]]:
    """Return the rows of the table for the data that the test rows stand for, as text."""

    def said(one: Share) -> str:
        return f"{one.share:.3f} ({one.low:.3f} to {one.high:.3f})"

    return [
        {"threshold": f"{row.threshold:g}", "called": said(row.called), "precision": said(row.precision),
         "recall": said(row.recall)}
        for row in measured.release
    ]  # fmt: skip


def about(measured: Measured, schedule: Schedule) -> dict[str, object]:
    """Return the training's entry in a head's file."""
    return {
        "rows": list(measured.rows),
        "auc": measured.auc,
        "accuracy": measured.half.accuracy,
        "precision": measured.half.precision,
        "recall": measured.half.recall,
        "schedule": asdict(schedule),
    } | ({"release": [_shares(row) for row in measured.release]} if measured.release else {})


def _shares(row: AtPrevalence) -> dict[str, object]:
    shares = {"called": row.called, "precision": row.precision, "recall": row.recall}
    return {"threshold": row.threshold} | {name: one.to_json() for name, one in shares.items()}


def _fitted(
    normal: Rows, labels: Labels, split: Split, schedule: Schedule, on_epoch: Callable[[int, float], None]
) -> tuple[tuple[Layer, ...], int]:
    """Train until the validation loss stops falling; return the best layers and the number of epochs."""
    generator = torch.Generator().manual_seed(schedule.seed)
    network = _network((normal.shape[1], *schedule.hidden, 1), generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    rows, wanted = torch.from_numpy(normal), torch.from_numpy(labels.astype(np.float32))
    training, validation = torch.from_numpy(split.training), torch.from_numpy(split.validation)
    best, best_loss, waited, epoch = _layers(network), float("inf"), 0, 0
    while waited < schedule.patience and epoch < schedule.max_epochs:
        epoch, waited = epoch + 1, waited + 1
        order = training[torch.randperm(len(training), generator=generator)]
        for batch in torch.split(order, schedule.batch_rows):
            loss = functional.binary_cross_entropy_with_logits(network(rows[batch])[:, 0], wanted[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
            optimizer.step()
        with torch.inference_mode():
            said = network(rows[validation])[:, 0]
            current = float(functional.binary_cross_entropy_with_logits(said, wanted[validation]))
        on_epoch(epoch, current)
        if current < best_loss:
            best, best_loss, waited = _layers(network), current, 0
    return best, epoch


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread: the steps of a small network are shorter than the start of a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _network(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.Linear(inputs, outputs)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _layers(network: nn.Sequential) -> tuple[Layer, ...]:
    linear = [module for module in network if isinstance(module, nn.Linear)]
    return tuple(
        Layer(module.weight.detach().numpy().copy(), module.bias.detach().numpy().copy(), module is not linear[-1])
        for module in linear
    )


def _parts(split: Split) -> tuple[Labels, Labels, Labels]:
    return split.training, split.validation, split.test
