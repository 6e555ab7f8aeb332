"""Find the positions of keys among a data file's rows: a hash is searched in the file's sorted hashes; an id determines
its position.

Hashes are uniform, so the top bits of a hash give its approximate position: one lookup in a table of counts, then about
one step. A binary search of the same keys takes four times as long, and sorting them first three times.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from dataset.formats.releases import Release, ReleaseFile, ids_path

Integers = npt.NDArray[np.int64]
Sections = npt.NDArray[np.uint32]

_MOST_STEPS = 64
"""Number of keys with the same top bits, above which a bisection is used. Uniform hashes have at most about twelve."""


@dataclass(frozen=True, slots=True)
class Found:
    """The keys that are rows of a file, and their positions in it; each (N,) int64."""

    keys: Integers
    places: Integers


class Keys(Protocol):
    """Divide keys into sections, and find the keys of a section in a data file."""

    @property
    def sections(self) -> int:
        """The number of sections."""

    def section_of(self, keys: Integers) -> Sections:
        """Return the section of each key, (N,) uint32; `sections` for a key that is in no file."""

    def file(self, at: int) -> "FileKeys":
        """Return the object that finds keys in data file `at`."""


class FileKeys(Protocol):
    """The keys of one data file."""

    @property
    def sections(self) -> range:
        """The sections that contain its keys."""

    def find(self, section: int, keys: Integers) -> Found:
        """Find keys of one of the file's sections."""


@dataclass(frozen=True, slots=True)
class IdKeys:
    """Ids; a section is a data file. `files` are in the order of their ids."""

    firsts: Integers
    ends: Integers

    @classmethod
    def of(cls, files: list[ReleaseFile]) -> Self:
        """Return the ids of data files."""
        firsts, ends = ([file.first_id for file in files], [file.last_id + 1 for file in files])
        return cls(np.array(firsts, np.int64), np.array(ends, np.int64))

    @property
    def sections(self) -> int:
        """The number of files."""
        return len(self.firsts)

    def section_of(self, keys: Integers) -> Sections:
        """Return the file of each id."""
        at = np.searchsorted(self.firsts, keys, "right") - 1
        inside = (at >= 0) & (keys < self.ends[at])
        return np.where(inside, at, self.sections).astype(np.uint32)

    def file(self, at: int) -> "FileIds":
        """Return the ids of a file."""
        return FileIds(range(at, at + 1), int(self.firsts[at]))


@dataclass(frozen=True, slots=True)
class FileIds:
    """Consecutive ids."""

    sections: range
    first_id: int

    def find(self, section: int, keys: Integers) -> Found:  # noqa: ARG002  # a file's only one
        """Return the places of ids."""
        return Found(np.arange(len(keys)), keys - self.first_id)


@dataclass(frozen=True, slots=True)
class HashKeys:
    """Hashes; a section is one of 2^bits equal ranges of them."""

    release: Release
    files: list[ReleaseFile]
    bits: int

    @property
    def sections(self) -> int:
        """The number of ranges."""
        return 1 << self.bits

    def section_of(self, keys: Integers) -> Sections:
        """Return the range of each hash, in signed order."""
        if not self.bits:
            return np.zeros(len(keys), np.uint32)
        return ((keys >> np.int64(64 - self.bits)) + (1 << self.bits - 1)).astype(np.uint32)

    def file(self, at: int) -> "FileHashes":
        """Read the hashes of a file.

        Raises: StoreError when `ids/`, which is private, is missing.
        """
        file = self.files[at]
        first = self.release.batch(file.batch).subsets[file.subset].first_id
        with self.release.store.open_input(self.release.path(ids_path(file.subset, file.batch))) as opened:
            opened.seek((file.first_id - first) * 8)
            known = np.frombuffer(opened.read_buffer((file.last_id + 1 - file.first_id) * 8), "<i8")
        of_known = self.section_of(known[[0, -1]])
        borders = np.searchsorted(self.section_of(known), np.arange(of_known[0], int(of_known[1]) + 2))
        return FileHashes(range(int(of_known[0]), int(of_known[1]) + 1), known, borders)


@dataclass(frozen=True, slots=True)
class FileHashes:
    """The sorted hashes of a file, and the offsets at which its ranges begin and the last one ends."""

    sections: range
    known: Integers
    borders: Integers

    def find(self, section: int, keys: Integers) -> Found:
        """Find hashes among those of the range."""
        first, end = self.borders[section - self.sections.start : section - self.sections.start + 2].tolist()
        found = find_sorted(self.known[first:end], keys)
        return Found(found.keys, found.places + first)


def find_sorted(known: Integers, keys: Integers) -> Found:
    """Find keys, in any order, among sorted ones that are all different."""
    if not len(known) or not len(keys):
        return Found(np.empty(0, np.int64), np.empty(0, np.int64))
    low, width = known[0], int(known[-1]) - int(known[0])
    shift = np.uint64(max(0, width.bit_length() - len(known).bit_length() - 1))
    with np.errstate(over="ignore"):
        offsets = (keys - low).view(np.uint64)
        buckets = ((known - low).view(np.uint64) >> shift).astype(np.int64)
    inside = np.flatnonzero(offsets <= np.uint64(width))
    wanted = keys[inside]
    counts = np.bincount(buckets)
    if counts.max() > _MOST_STEPS:
        places = np.searchsorted(known, wanted)
    else:
        begins = np.concatenate(([0], np.cumsum(counts[:-1])))
        places = begins[(offsets[inside] >> shift).astype(np.int64)]
        behind = np.flatnonzero(known[places] < wanted)
        while len(behind):
            places[behind] += 1
            behind = behind[known[places[behind]] < wanted[behind]]
    fits = known[places] == wanted
    return Found(inside[fits], places[fits])
