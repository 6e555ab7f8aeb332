"""Labelled pictures to train a classifier on, as squares in a file that is mapped into memory.

Pictures are decoded in separate processes, to the squares that the classifier will read in the filter, and to a
fingerprint. A picture that cannot be decoded is counted and left out.

A folder of classes has a folder per class, with pictures and WebDataset tars in it. It has no splits: pictures are
grouped by PDQ, and a group is in one split.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Generic, TypeVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from dataset.formats.shards import Sample
from dataset.formats.webdataset import PICTURES, TAR_ENDINGS, read_webdataset
from dataset.models.decoders import Decoders
from dataset.models.inputs import KeptPicture, Pixels
from dataset.pictures.fingerprints import Fingerprint
from dataset.store.store import Store
from dataset.tags.accuracy import Labels
from dataset.tags.labels import LabelledError
from dataset.tags.training import SHARES, Split

SAME_PDQ_BITS = 31
"""PDQ's distance up to which two pictures are the same (Facebook 2019)."""

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, eq=False)
class Gathered(Generic[Key]):
    """Decoded pictures: what was given with each, squares (N, side, side, 3) uint8, fingerprints; and how many are
    missing because they could not be decoded.
    """

    keys: list[Key]
    squares: Pixels
    fingerprints: list[Fingerprint]
    undecodable: int


@dataclass(frozen=True, slots=True)
class Named:
    """The class of a picture, and the host of its URL; '' if it has none."""

    label: str
    host: str


def gather(pictures: Iterable[tuple[Key, bytes]], side: int, file: IO[bytes], decoders: Decoders) -> Gathered[Key]:
    """Decode pictures into `file`, an empty temporary file that must stay open as long as the squares are used."""
    task, waiting = KeptPicture((side,)), iter(pictures)
    keys: list[Key] = []
    fingerprints: list[Fingerprint] = []
    undecodable = 0
    while some := list(islice(waiting, decoders.pictures_at_once)):
        for (key, _), said in zip(some, decoders.each(task, [data for _, data in some]), strict=True):
            read = None if said is None else task.read(said)
            if read is None:
                undecodable += 1
                continue
            (square,), found = read
            file.write(square.tobytes())
            keys.append(key)
            fingerprints.append(found)
    file.flush()
    shape = (len(keys), side, side, 3)
    squares = np.memmap(file, np.uint8, "r", shape=shape) if keys else np.empty(shape, np.uint8)
    return Gathered(keys, squares, fingerprints, undecodable)


def read_class_folders(folder: Path) -> Iterator[tuple[Named, bytes]]:
    """Yield the pictures of a folder of classes, by class and name.

    Raises: LabelledError when it has not two folders, or cannot be read; ShardError for a damaged tar.
    """
    try:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        if len(classes) < 2:
            raise LabelledError(f"{folder} has {len(classes)} folders: give one for each class, two or more.")
        for each in classes:
            for entry in sorted(each.iterdir()):
                if entry.name.endswith(TAR_ENDINGS):
                    for sample in read_webdataset(Store.open(str(each), writable=False), entry.name):
                        if isinstance(sample, Sample):
                            yield Named(each.name, urlsplit(sample.url).hostname or ""), sample.image
                elif entry.suffix.lstrip(".").lower() in PICTURES:
                    yield Named(each.name, ""), entry.read_bytes()
    except OSError as error:
        raise LabelledError(f"Cannot read {folder} ({error.strerror}): name a folder of classes.") from error


def split_groups(labels: Labels, groups: Labels, seed: int) -> Split:
    """Split rows (N,) at random by SHARES, each label by itself; rows of one group are in one part.

    A group counts with the label of its first row.
    """
    rng = np.random.default_rng(seed)
    names, first = np.unique(groups, return_index=True)
    part_of = np.zeros(len(names), np.int64)  # of each group: 0 training, 1 validation, 2 test
    sizes = np.bincount(np.searchsorted(names, groups), minlength=len(names))
    for label in np.unique(labels):
        those = rng.permutation(np.flatnonzero(labels[first] == label))
        done = (np.cumsum(sizes[those]) - sizes[those] / 2) / max(1, sizes[those].sum())
        part_of[those] = np.searchsorted(np.cumsum(SHARES)[:2], done, "right")
    parts = part_of[np.searchsorted(names, groups)]
    return Split(*(np.flatnonzero(parts == part) for part in range(3)))


def near_groups(fingerprints: list[Fingerprint]) -> Labels:
    """Return a group number for each picture, (N,) int64: that of the first picture within SAME_PDQ_BITS.

    A picture without a PDQ, which has too little contrast, is grouped with those of the same dHash.
    """
    groups = np.arange(len(fingerprints))
    plain: dict[int, int] = {}
    leaders, codes = np.empty(len(fingerprints), np.int64), np.empty((len(fingerprints), 4), np.uint64)
    count = 0
    for place, found in enumerate(fingerprints):
        if found.pdq is None:
            groups[place] = plain.setdefault(found.dhash, place)
            continue
        code = np.frombuffer(found.pdq, np.uint64)  # (4,)
        near = np.flatnonzero(_bits(codes[:count] ^ code) <= SAME_PDQ_BITS)
        if len(near):
            groups[place] = leaders[near[0]]
        else:
            leaders[count], codes[count], count = place, code, count + 1
    return groups


def _bits(codes: npt.NDArray[np.uint64]) -> Labels:
    counts: Labels = np.bitwise_count(codes).sum(axis=1, dtype=np.int64)
    return counts
