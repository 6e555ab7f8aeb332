"""Labels of a release's pictures: one parquet file, with which heads and classifiers are trained and measured.

    labels.parquet   a row per labelled picture, by id; the key `shoal.labels` of its metadata holds the record
    labels.npy       beside it, where the release has an index: row i is the embedding of the picture in row i

Invariant: an id occurs once, and rows of one near-duplicate group have the same split. Rows of the split `test` were
drawn at random with known probabilities, so sums over their `weight` estimate sums over the whole release.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.errors import DatasetError, said_by
from dataset.formats.json_records import from_json, to_json

FORMAT = 1
METADATA_KEY = b"shoal.labels"


class LabelFileError(DatasetError):
    """A file of labels cannot be read or written, or its labels cannot be used."""


class Split(StrEnum):
    """The purpose of a row."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class DrawKind(StrEnum):
    """How a picture was drawn."""

    PROMPT = "prompt"
    """Near a prompt or an example of a class."""
    HARD_NEGATIVE = "hard_negative"
    """Near a picture that was labelled positive, and scored low by the present head."""
    UNIFORM = "uniform"
    STRATIFIED = "stratified"
    """Within a stratum of a score, at random."""


SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("hash", pa.int64()),
        ("sha256", pa.string()),  # of the picture as it was downloaded, in hex
        ("split", pa.string()),  # a Split
        ("label", pa.string()),  # a class of the record
        ("annotator", pa.string()),  # pseudonyms of those who gave this label, sorted, with ',' between them
        ("time", pa.timestamp("ms", tz="UTC")),  # of the last answer on which the label is based
        ("draw", pa.string()),  # a DrawKind
        ("prompt", pa.string()),  # the prompt, or id:N for a picture; null in random draws, as is rank
        ("rank", pa.int32()),  # among the rows near the prompt, from 0 on
        ("similarity", pa.float64()),  # cosine to the prompt; in random draws the release's, of picture and caption
        ("weight", pa.float64()),  # 1 / probability of being drawn into its split; null outside random draws
        ("guideline", pa.string()),  # version of the guideline by which it was labelled
    ]
)
_NULLABLE = frozenset({"sha256", "prompt", "rank", "similarity", "weight"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRecord:
    """The content of the key `shoal.labels`."""

    format: int
    task: str
    release: str
    version: str
    """The release's, when the pictures were drawn."""
    classes: tuple[str, ...]
    guideline_version: str
    guideline: str
    seed: int
    """Of the draws and splits."""


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A file of labels: its record, and its rows with the columns of SCHEMA."""

    record: LabelRecord
    rows: pa.Table


def write_labels(path: Path, labels: LabelFile) -> None:
    """Write rows, sorted by id; an existing file is replaced at once.

    Raises: LabelFileError when the rows are not labels, or the file cannot be written.
    """
    rows = labels.rows.select(SCHEMA.names).cast(SCHEMA).sort_by("id")
    _check(rows, labels.record, str(path))
    aside = path.with_name(f"{path.name}.partial")
    try:
        pq.write_table(rows.replace_schema_metadata({METADATA_KEY: to_json(labels.record)}), aside, compression="zstd")
        aside.replace(path)
    except OSError as error:
        raise LabelFileError(f"Cannot write {path} ({error.strerror}): name another file.") from error


def read_label_file(path: Path) -> LabelFile:
    """Read a file of labels.

    Raises: LabelFileError when it cannot be read, is another file, or its rows are damaged.
    """
    try:
        rows = pq.read_table(path)
        record = from_json(LabelRecord, (rows.schema.metadata or {})[METADATA_KEY])
        rows = rows.select(SCHEMA.names).cast(SCHEMA)
    except KeyError as error:
        raise LabelFileError(f"{path} is not a file of labels: write one with dataset label --export.") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LabelFileError(f"Cannot read {path} ({said_by(error)}): write it again with --export.") from error
    _check(rows, record, str(path))
    return LabelFile(record, rows)


def is_label_file(path: Path) -> bool:
    """Return whether a file is parquet with a record of labels."""
    try:
        return METADATA_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError, pa.ArrowException):
        return False


def positives(labels: LabelFile, positive: str) -> npt.NDArray[np.int64]:
    """Return 1 for each row of the class `positive` and 0 for the others, (N,) int64.

    Raises: LabelFileError when the task has no such class.
    """
    if positive not in labels.record.classes:
        raise LabelFileError(f"There is no class {positive!r}: name one of {', '.join(labels.record.classes)}.")
    return np.array([name == positive for name in labels.rows["label"].to_pylist()], np.int64)


def splits(labels: LabelFile) -> dict[Split, npt.NDArray[np.int64]]:
    """Return the row numbers of each split, (N,) int64, in order."""
    named = np.array(labels.rows["split"].to_pylist(), object)
    return {split: np.flatnonzero(named == split.value) for split in Split}


def _check(rows: pa.Table, record: LabelRecord, place: str) -> None:
    known: dict[str, Any] = {"split": {*Split}, "label": {*record.classes}, "draw": {*DrawKind}}
    for name in SCHEMA.names:
        if rows[name].null_count and name not in _NULLABLE:
            raise LabelFileError(f"{place} has a row without {name}: write it again with dataset label --export.")
    for name, allowed in known.items():
        if strange := {*rows[name].unique().to_pylist()} - allowed:
            raise LabelFileError(f"{place} has the {name} {min(strange)!r}: use {', '.join(sorted(allowed))}.")
    if len(rows["id"].unique()) != len(rows):
        raise LabelFileError(f"{place} has an id twice: keep one label per picture.")
