"""Masks: rows of a release that have a near-duplicate elsewhere, such as in an evaluation set.

    OUT/mask.parquet   id, reason, other, other_row, cosine; by id and other: a row for each set that a row is near to
    OUT/mask.json      the record, written last

Invariant: ids are those of the release, so that a mask stays valid for its rows in all versions. It does not cover rows
of later batches.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.errors import DatasetError
from dataset.formats.json_records import from_json
from dataset.formats.releases import Release
from dataset.store.store import Store

FORMAT = 1
RECORD, ROWS = "mask.json", "mask.parquet"
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("reason", pa.string()),
        ("other", pa.string()),
        ("other_row", pa.int64()),
        ("cosine", pa.float32()),
    ]
)


class MaskError(DatasetError):
    """A mask cannot be read, or does not fit a release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSet:
    """A set of embeddings with which a release was compared."""

    name: str
    rows: int
    near_rows: int
    """Its rows that have a near-duplicate in the release."""
    release_rows: int
    """Rows of the release that are near to it."""
    same_model: bool
    """Whether the set names the model of its embeddings; otherwise only their length was compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRecord:
    """The content of mask.json."""

    format: int
    release: str
    version: str
    next_id: int
    """Rows from this id on were not compared."""
    model: str
    model_sha256: str
    at: float
    rows: int
    """Rows of the release that are masked."""
    sets: tuple[ComparedSet, ...]
    overlap: Mapping[str, Mapping[str, int]]
    """Rows of the release that are near to both of two sets, by their names."""
    sha256: str
    """Of mask.parquet."""


def read_mask(store: Store) -> MaskRecord:
    """Read the record of the mask in this folder.

    Raises: MaskError when there is none, or it is damaged; StoreError.
    """
    if not store.exists(RECORD):
        raise MaskError(f"{store.uri} has no {RECORD}: name a folder that dataset dedup against has written.")
    try:
        return from_json(MaskRecord, store.read(RECORD))
    except ValueError as error:
        raise MaskError(f"{RECORD} in {store.uri} cannot be read ({error}): write the mask again.") from error


def read_masked_ids(release: Release, masks: Sequence[Store]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the ids that any of the masks has, sorted -> (N,), and the sha256 of each mask.

    Raises: MaskError when a mask is of another release, does not cover all rows, or was changed; StoreError.
    """
    ids, sums = [np.empty(0, np.int64)], []
    for store in masks:
        record = read_mask(store)
        if record.release != release.record.name:
            raise MaskError(f"{store.uri} is a mask of {record.release}, not of {release.record.name}.")
        if record.next_id < release.record.next_id:
            raise MaskError(
                f"{store.uri} was made of {record.release} {record.version}, and {release.record.version} has later "
                "rows: run dataset dedup against again."
            )
        if hashlib.sha256(store.read(ROWS)).hexdigest() != record.sha256:
            raise MaskError(f"{ROWS} in {store.uri} is not the file of its record: write the mask again.")
        ids.append(store.read_table(ROWS, ["id"])["id"].to_numpy())
        sums.append(record.sha256)
    return np.unique(np.concatenate(ids)), tuple(sums)
