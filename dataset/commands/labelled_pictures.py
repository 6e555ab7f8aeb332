"""The pictures of a file of labels, for `dataset train-classifier`: the release's kept ones."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from dataset.commands.releases import open_named_release
from dataset.formats.label_files import LabelFile, Split, positives, read_label_file
from dataset.formats.releases import Release
from dataset.models.decoders import Decoders
from dataset.select.copies import ColumnReader
from dataset.select.pictures import kept_pictures
from dataset.side_tables.rows import ReleaseRows
from dataset.tags import training
from dataset.tags.classifier_runs import LabelledSet
from dataset.tags.labels import LabelledError
from dataset.tags.picture_sets import gather
from dataset.tags.picture_training import MIN_VALIDATION, LabelledPictures
from dataset.tags.prevalence import Weights


def read_labelled(path: Path, positive: str, store: str, side: int, file: IO[bytes], decoders: Decoders) -> LabelledSet:
    """Read the labelled pictures that are kept into `file`, a temporary file, with the file's splits and weights.

    Raises: LabelFileError, ReleaseError; LabelledError when no picture is kept, or a test row has no weight.
    """
    labelled = read_label_file(path)
    ones = positives(labelled, positive)
    release = open_named_release(labelled.record.release, store, writable=False)
    ids = labelled.rows["id"].to_numpy()  # sorted
    gathered = gather(kept_pictures(release, ids), side, file, decoders)
    if not gathered.keys:
        raise LabelledError(f"No picture of {path} is kept by the crawls of {release.record.name}: keep pictures.")
    rows = np.searchsorted(ids, np.array(gathered.keys, np.int64))
    kept = LabelFile(labelled.record, labelled.rows.take(rows))
    named = np.array(kept.rows["split"].to_pylist(), object)
    split = training.Split(*(np.flatnonzero(named == one.value) for one in Split))
    record = labelled.record
    draws = kept.rows["draw"].to_pylist()
    return LabelledSet(
        LabelledPictures(gathered.squares, ones[rows], _weights(kept, ones[rows], split)),
        split,
        f"Pictures of the release {record.release} {record.version}, labelled for the task {record.task} (guideline "
        f"{record.guideline_version}). Training pictures are near prompts, test pictures are random draws.",
        record.guideline,
        left_out=len(ids) - len(rows),
        slices={"host": _hosts(release, ids[rows]), "draw": draws},
        ids=ids[rows],
    )


def _weights(labels: LabelFile, ones: npt.NDArray[np.int64], split: training.Split) -> Weights:
    """Return the weight of each row; 1 if it is of no random draw.

    Random draws among the validation rows stand for the release, so the others have no weight there, if the random ones
    suffice for a calibration.

    Raises: LabelledError when a test row has no weight.
    """
    weights: Weights = labels.rows["weight"].to_numpy(zero_copy_only=False).astype(np.float64)
    unknown = np.isnan(weights)
    if unknown[split.test].any():
        raise LabelledError("A test picture has no weight: write the labels again with dataset label --export.")
    at_random = split.validation[~unknown[split.validation]]
    enough = all(np.count_nonzero(ones[at_random] == label) >= MIN_VALIDATION for label in (0, 1))
    weights[unknown] = 1.0
    if enough:
        weights[split.validation[unknown[split.validation]]] = 0.0
    elif len(at_random):
        weights[at_random] = 1.0
    return weights


def _hosts(release: Release, ids: npt.NDArray[np.int64]) -> Sequence[str]:
    """Return the host of each row's URL; '' for rows that were removed."""
    order = np.argsort(ids)
    urls = ColumnReader(ReleaseRows(release), "URL", "caption").read(ids[order]).to_pylist()
    hosts = dict(zip(ids[order].tolist(), _hosts_of(urls), strict=True))
    return [hosts[one] for one in ids.tolist()]


def _hosts_of(urls: Sequence[str | None]) -> Iterator[str]:
    for url in urls:
        try:
            yield urlsplit(url or "").hostname or ""
        except ValueError:
            yield ""
