"""A whole run of `dataset train-classifier`: labelled pictures with their split → file, model card, test scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from dataset.models.decoders import Decoders
from dataset.recipe.tags import Tag
from dataset.tags.labels import LabelledError
from dataset.tags.picture_card import CardFacts, classifier_card
from dataset.tags.picture_heads import PictureHead, PictureLayout
from dataset.tags.picture_measures import MeasuredClassifier, measure_classifier
from dataset.tags.picture_sets import gather, near_groups, read_class_folders, split_groups
from dataset.tags.picture_training import LabelledPictures, PictureSchedule, about_training, train_classifier
from dataset.tags.prevalence import weights_at
from dataset.tags.training import Split


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSet:
    """Pictures with their split. `slices` and `names` have a value per picture: what tells them apart, and their ids.

    `data` is a sentence on where they come from; `left_out` are labelled pictures that are missing or undecodable.
    """

    pictures: LabelledPictures
    split: Split
    data: str
    guideline: str = ""
    left_out: int = 0
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ids: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierRun:
    """The outputs of a run. `scores` has the columns id, label, weight and score of the test pictures."""

    file: bytes
    card: str
    scores: Mapping[str, npt.NDArray[Any]]
    measured: MeasuredClassifier


def read_folder(folder: Path, positive: str, side: int, file: IO[bytes], decoders: Decoders, seed: int) -> LabelledSet:
    """Read a folder of classes into `file`, a temporary file; each picture stands for one.

    Raises: LabelledError when no class is called `positive`, or the folder cannot be read.
    """
    gathered = gather(read_class_folders(folder), side, file, decoders)
    names = [key.label for key in gathered.keys]
    if positive not in names:
        raise LabelledError(f"{folder} has no pictures of {positive}: name one of its folders with --positive.")
    labels = np.array([name == positive for name in names], np.int64)
    split = split_groups(labels, near_groups(gathered.fingerprints), seed)
    pictures = LabelledPictures(gathered.squares, labels, np.ones(len(labels)))
    data = f"Pictures of the classes {', '.join(sorted(set(names)))}, in a folder for each; the splits are random."
    slices = {"class": names, "host": [key.host for key in gathered.keys]}
    return LabelledSet(pictures, split, data, left_out=gathered.undecodable, slices=slices)


def train_and_measure(
    given: LabelledSet,
    tag: Tag,
    layout: PictureLayout,
    schedule: PictureSchedule,
    prevalence: float | None = None,
    device: str | None = None,
    on_epoch: Callable[[int, float], None] = lambda _epoch, _loss: None,
) -> ClassifierRun:
    """Train on two of the splits, and measure on the third.

    Probabilities are for data of which the share `prevalence` is positive; by default the weighted share of the test
    pictures, of which only the labels are used for this.

    Raises: LabelledError when a split has too few pictures of a label.
    """
    test = given.pictures.of(given.split.test)
    weights = weights_at(test.labels, test.weights, prevalence)
    share = float(weights[test.labels == 1].sum() / weights.sum())
    trained = train_classifier(
        given.pictures, given.split.training, given.split.validation, layout, schedule, share, device, on_epoch
    )
    head = PictureHead.of(tag, trained.layout, trained.state, device)
    scores = head.score(test.squares).astype(np.float64)
    slices = {name: [values[row] for row in given.split.test] for name, values in given.slices.items()}
    measured = measure_classifier(scores, test.labels, weights, slices)
    rows = [
        (name, len(part), int(given.pictures.labels[part].sum()))
        for name, part in (
            ("training", given.split.training), ("validation", given.split.validation), ("test", given.split.test)
        )
    ]  # fmt: skip
    facts = CardFacts(tag, trained.layout, schedule, trained.losses, given.data, given.guideline, rows, given.left_out)
    about = about_training(schedule, trained.losses, {name: count for name, count, _ in rows}, share)
    columns: dict[str, npt.NDArray[Any]] = {"label": test.labels, "weight": weights, "score": scores}
    if given.ids is not None:
        columns = {"id": given.ids[given.split.test]} | columns
    return ClassifierRun(
        trained.to_bytes(tag, about | {"measured": measured.to_json()}),
        classifier_card(facts, measured),
        columns,
        measured,
    )
