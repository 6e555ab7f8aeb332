"""Train a picture classifier: from squares and labels to a head's file with calibrated probabilities.

    varied pictures → AdamW with a one-cycle rate, both labels with equal weight in the loss → the epoch with the lowest
    validation loss → tensors in half precision → Platt scaling on the validation rows

The split is the caller's: near-duplicates must be in one part. The test rows are not used here. On one machine, with
as many threads, equal arguments give the same file.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from dataset.models.inputs import Pixels
from dataset.recipe.tags import Tag
from dataset.tags.accuracy import Labels
from dataset.tags.calibration import platt
from dataset.tags.heads import Rows
from dataset.tags.labels import LabelledError
from dataset.tags.picture_augment import varied
from dataset.tags.picture_heads import PictureLayout, margins_of, normalised, picture_head_bytes
from dataset.tags.prevalence import Weights, weights_at
from dataset.tags.training import MIN_OF_EACH

SMOOTHING = 0.02
MIN_VALIDATION = 3  # rows of each label, as in `dataset.tags.training`


@dataclass(frozen=True, slots=True)
class PictureSchedule:
    """The hyperparameters of training."""

    epochs: int = 8
    batch_pictures: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LabelledPictures:
    """Squares (N, side, side, 3) uint8, which may be a memory map, with labels (N,) of 0 and 1 and weights (N,)."""

    squares: Pixels
    labels: Labels
    weights: Weights

    def of(self, rows: npt.NDArray[np.int64]) -> "LabelledPictures":
        """Return some rows; their squares are copied."""
        return LabelledPictures(self.squares[rows], self.labels[rows], self.weights[rows])


@dataclass(frozen=True, slots=True, eq=False)
class TrainedClassifier:
    """The calibrated layout and the tensors; `losses` are the validation losses of the epochs."""

    layout: PictureLayout
    state: dict[str, Rows]
    losses: tuple[float, ...]

    def to_bytes(self, tag: Tag, about: dict[str, Any]) -> bytes:
        """Return the head's file."""
        return picture_head_bytes(self.layout, tag, self.state, about)


def train_classifier(
    pictures: LabelledPictures,
    training: npt.NDArray[np.int64],
    validation: npt.NDArray[np.int64],
    layout: PictureLayout,
    schedule: PictureSchedule = PictureSchedule(),
    prevalence: float | None = None,
    device: str | None = None,
    on_epoch: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> TrainedClassifier:
    """Train a classifier of `layout` on the rows `training`, and calibrate it on the rows `validation`.

    Label 1 is the layout's first class, and 0 the second. Probabilities are for data of which the share `prevalence`
    has label 1; by default for the weights of the validation rows. `on_epoch` is called with each epoch and its
    validation loss. `device` None is a GPU if there is one.

    Raises: LabelledError when a label has too few rows or no weight.
    """
    for rows, least, name in ((training, MIN_OF_EACH, "training"), (validation, MIN_VALIDATION, "validation")):
        for label in (0, 1):
            if (count := int(np.count_nonzero(pictures.labels[rows] == label))) < least:
                raise LabelledError(f"Only {count} {name} pictures have the label {label}: give at least {least}.")
    held_out = pictures.of(validation)
    weights = weights_at(held_out.labels, held_out.weights, prevalence)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with _deterministic():
        torch.manual_seed(schedule.seed)
        network = layout.network().to(place)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
        losses, best, best_loss = [], _state(network), float("inf")
        for epoch in _epochs(network, pictures, training, layout, schedule, place):
            margins = margins_of(network, layout, place, held_out.squares).astype(np.float64)
            losses.append(_loss(margins, held_out.labels))
            on_epoch(epoch, losses[-1])
            if losses[-1] < best_loss:
                best, best_loss = _state(network), losses[-1]
        network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in best.items()}, strict=False)
        network.eval()
        margins = margins_of(network, layout, place, held_out.squares).astype(np.float64)
    return TrainedClassifier(layout.calibrated(*platt(margins, held_out.labels, weights)), best, tuple(losses))


def about_training(
    schedule: PictureSchedule, losses: tuple[float, ...], rows: dict[str, int], prevalence: float | None
) -> dict[str, Any]:
    """Return the training's entry in a head's file."""
    return {"schedule": asdict(schedule), "losses": list(losses), "rows": rows, "prevalence": prevalence}


def _epochs(
    network: nn.Module,
    pictures: LabelledPictures,
    training: npt.NDArray[np.int64],
    layout: PictureLayout,
    schedule: PictureSchedule,
    device: torch.device,
) -> Iterator[int]:
    """Train for an epoch at a time; yield its number with the network in evaluation mode."""
    rng = np.random.default_rng(schedule.seed)
    generator = torch.Generator(device).manual_seed(schedule.seed)
    labels = pictures.labels[training]
    ones = np.count_nonzero(labels) / len(labels)
    by_class = torch.tensor([0.5 / ones, 0.5 / (1 - ones)], dtype=torch.float32, device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    steps = max(2, -(-len(training) // schedule.batch_pictures))  # of an epoch; a cycle has two
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=steps * schedule.epochs, pct_start=0.2
    )
    for epoch in range(1, schedule.epochs + 1):
        network.train()
        for rows in np.array_split(rng.permutation(training), steps):
            squares = torch.from_numpy(pictures.squares[np.sort(rows)]).to(device)  # sorted for a memory map
            wanted = torch.from_numpy(1 - pictures.labels[np.sort(rows)]).to(device)  # label 1 is class 0
            inputs = normalised(varied(squares, generator), layout).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(network(inputs), wanted, by_class, label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
            optimizer.step()
            rates.step()
        yield _evaluated(network, epoch)


def _evaluated(network: nn.Module, epoch: int) -> int:
    network.eval()
    return epoch


def _loss(margins: npt.NDArray[np.float64], labels: Labels) -> float:
    """Return the mean over both labels of the negative log-likelihood."""
    losses = np.logaddexp(0, np.where(labels == 1, -margins, margins))
    return float((losses[labels == 1].mean() + losses[labels == 0].mean()) / 2)


def _state(network: nn.Module) -> dict[str, Rows]:
    """Return the tensors as a head's file stores them: matrices in half precision, vectors in single."""
    tensors = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in network.state_dict().items()}
    return {
        name: tensor.astype(np.float16 if tensor.ndim > 1 else np.float32)
        for name, tensor in tensors.items()
        if tensor.dtype.kind == "f"
    }


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch use only deterministic kernels, and leave its random state as it was."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with it alone
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
