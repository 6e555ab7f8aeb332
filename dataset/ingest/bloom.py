"""The Bloom filter that drops duplicates at ingest: split-block stages, each twice as large as the one before.

Invariant: an added key is always found, and other keys are found at most at the stated rate, however far the filter
grows: the stages' rates shrink by TIGHTENING, and their sum is the stated rate. Source: Almeida, Baquero, Preguica,
Hutchison, "Scalable Bloom Filters" (2007), on `dataset.ingest.split_block`.

A filter is derived from committed packs; if a commit fails, the filter with its keys is discarded. A snapshot contains
its writer's metadata, which name the packs that it covers. Packs committed since are replayed; replaying a pack twice
changes nothing. Snapshots are little-endian: magic, version, length of the header, header (JSON), its XXH3-64, each
stage's words, XXH3-64 of all words.

Rejected: `rbloom` (fixed size; a fifth of the speed, or 1.1 times with Python's own hash, which differs between
processes), a cuckoo filter (it supports deletes, which are not needed, and its inserts can fail), a table of all hashes
in Postgres (an index of 8 billion rows in the path of every COPY).
"""

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import xxhash

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.formats.url_hashes import Hashes
from dataset.ingest.split_block import CHUNK_KEYS, MAX_BLOCKS, SplitBlockFilter, blocks_for, expected_rate, sized_for

GROWTH = 2
# Almeida et al. recommend 0.8 to 0.9 at growth 2. With 0.8 and a rate of 1e-3, the tenth stage takes 34 bits per key;
# with 0.5 it would take 65, and the first stage 19 instead of 23.
TIGHTENING = 0.8

# Below the probability that two keys have equal hashes, 4e-10 among eight billion, nothing is gained.
MIN_RATE = 1e-9

# 2^64 divided by the golden ratio (Knuth, TAOCP 6.4): odd, so that distinct hashes stay distinct.
SPREAD = np.uint64(0x9E3779B97F4A7C15)

MAGIC = b"SHOALBLM"
VERSION = 1
PREFIX = struct.Struct("<8sII")  # magic, version, length of the header
CHECKSUM = struct.Struct("<Q")
IO_BYTES = 8 * 2**20


class BloomError(DatasetError):
    """A filter cannot be made as requested, or a snapshot is damaged."""


class BloomFilter:
    """A set of (N,) uint64 hashes (see `formats.url_hashes`) that may report keys that were not added, but never misses
    one.
    """

    def __init__(self, capacity: int, rate: float) -> None:
        """Make an empty filter; beyond `capacity` keys it grows, and its rate still stays at most `rate`.

        Raises:
            BloomError: the capacity is not positive or too large for one filter, or the rate is out of bounds.
        """
        if not MIN_RATE <= rate < 1:
            raise BloomError(f"a Bloom filter's rate is at least {MIN_RATE} and below 1, not {rate}; 0.001 is usual")
        if capacity < 1:
            raise BloomError(f"a Bloom filter's capacity is at least 1, not {capacity}; give the number of URLs")
        self.capacity = capacity
        self.rate = rate
        self.metadata: dict[str, str] = {}  # of the snapshot from which this filter was loaded
        self._stages: list[SplitBlockFilter] = []
        self._grow()

    @property
    def count(self) -> int:
        """Return the number of keys added, without those that were found by mistake."""
        return sum(stage.count for stage in self._stages)

    @property
    def size_bytes(self) -> int:
        """Return the memory of all stages, which is about the size of a snapshot."""
        return sum(stage.words.nbytes for stage in self._stages)

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return for each key whether it was added, or appears to be, (N,) bool."""
        spread = _spread(hashes)
        found = np.zeros(len(hashes), np.bool_)
        pending = np.arange(len(hashes))
        for stage in reversed(self._stages):  # the last stage holds half of all keys
            hit = stage.contains(spread[pending])
            found[pending[hit]] = True
            pending = pending[~hit]
        return found

    def first_seen(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return which keys are not in the filter, each only at its first occurrence in `hashes`, (N,) bool.

        The filter does not change.
        """
        unknown = np.flatnonzero(~self.contains(hashes))
        new = np.zeros(len(hashes), np.bool_)
        new[unknown[_first_occurrences(hashes[unknown])]] = True
        return new

    def add(self, hashes: Hashes) -> None:
        """Add the keys that are new; keys already in the filter change nothing."""
        for start in range(0, len(hashes), CHUNK_KEYS):
            chunk = hashes[start : start + CHUNK_KEYS]
            self._insert(_spread(chunk[self.first_seen(chunk)]))

    def add_new(self, hashes: Hashes) -> None:
        """Add keys that `first_seen` has returned, without looking them up again; no key may have been added in
        between.

        Other keys would be counted twice.
        """
        self._insert(_spread(hashes))

    def expected_wrong(self, new: int) -> float:
        """Return the expected number of keys found by mistake while `new` were not found, from the stages' loads."""
        passes = 1.0
        for stage in self._stages:
            if stage.count:
                passes *= 1.0 - expected_rate(stage.count / len(stage.words))
        return new * (1.0 - passes) / passes

    def save(self, file: BinaryIO, metadata: Mapping[str, str] | None = None) -> None:
        """Write a snapshot; `metadata` is returned as `filter.metadata`, for example to tell which packs were added."""
        header = {
            "capacity": self.capacity,
            "rate": self.rate,
            "counts": [stage.count for stage in self._stages],
            "metadata": dict(metadata or {}),
        }
        encoded = strict_json.dumps(header, sort_keys=True).encode()
        prefix = PREFIX.pack(MAGIC, VERSION, len(encoded)) + encoded
        file.write(prefix + CHECKSUM.pack(xxhash.xxh3_64_intdigest(prefix)))
        checksum = xxhash.xxh3_64()
        for piece in self._pieces():
            checksum.update(piece)
            file.write(piece)
        file.write(CHECKSUM.pack(checksum.intdigest()))

    @classmethod
    def load(cls, file: BinaryIO) -> Self:
        """Read a snapshot.

        Raises:
            BloomError: the file is not a snapshot, has another version, or is damaged; delete it and replay the packs.
        """
        header = _read_header(file)
        loaded = cls(header["capacity"], header["rate"])
        loaded.metadata = header["metadata"]
        for _ in header["counts"][1:]:
            loaded._grow()
        for stage, count in zip(loaded._stages, header["counts"], strict=True):
            stage.count = count
        checksum = xxhash.xxh3_64()
        for piece in loaded._pieces():
            piece[:] = _read_exactly(file, len(piece))
            checksum.update(piece)
        if checksum.intdigest() != CHECKSUM.unpack(_read_exactly(file, CHECKSUM.size))[0]:
            raise _damaged("its words do not match their checksum")
        if file.read(1):
            raise _damaged("bytes follow its end")
        return loaded

    def _insert(self, new: Hashes) -> None:
        """Insert spread hashes, distinct and new, into the last stage, and into a new stage whenever it is full."""
        while len(new):
            stage = self._stages[-1]
            room = stage.capacity - stage.count
            stage.insert(new[:room])
            new = new[room:]
            if len(new):
                self._grow()

    def _grow(self) -> None:
        stage = len(self._stages)
        capacity = self.capacity * GROWTH**stage
        rate = self.rate * (1 - TIGHTENING) * TIGHTENING**stage
        if blocks_for(capacity, rate) > MAX_BLOCKS:
            raise BloomError(f"{capacity} keys at a rate of {rate} are too many for one filter; use more slots")
        self._stages.append(sized_for(capacity, rate))

    def _pieces(self) -> Iterator[memoryview]:
        """Yield all words in order, as writable views of at most IO_BYTES."""
        for stage in self._stages:
            words = stage.words.reshape(-1).view(np.uint8).data
            for start in range(0, len(words), IO_BYTES):
                yield words[start : start + IO_BYTES]


def _spread(hashes: Hashes) -> Hashes:
    """Multiply modulo 2^64: a stage that gets sorted keys would otherwise fill only few of its blocks."""
    return hashes * SPREAD


def _first_occurrences(hashes: Hashes) -> npt.NDArray[np.intp]:
    """Return the index of each distinct key's first occurrence; np.unique sorts stably for it, which took 2.5 times as
    long.
    """
    order = np.argsort(hashes)
    ordered = hashes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    return np.minimum.reduceat(order, starts) if len(starts) else order


def _read_header(file: BinaryIO) -> dict[str, Any]:
    prefix = _read_exactly(file, PREFIX.size)
    magic, version, length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise _damaged("its magic is missing")
    if version != VERSION:
        raise BloomError(
            f"this Bloom filter snapshot has version {version}, but this code reads version {VERSION}; "
            "use the version that wrote it, or delete it and replay the packs"
        )
    encoded = _read_exactly(file, length)
    if xxhash.xxh3_64_intdigest(prefix + encoded) != CHECKSUM.unpack(_read_exactly(file, CHECKSUM.size))[0]:
        raise _damaged("its header does not match its checksum")
    header: dict[str, Any] = json.loads(encoded)
    return header


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    while len(content) < size:  # a raw stream may return less than requested
        more = file.read(size - len(content))
        if not more:
            raise _damaged("it ends early")
        content += more
    return content


def _damaged(why: str) -> BloomError:
    return BloomError(f"this Bloom filter snapshot is damaged ({why}); delete it and replay the packs")
