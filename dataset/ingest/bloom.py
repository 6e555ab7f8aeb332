"""The Bloom filter that drops duplicates at ingest: split-block stages, each twice as large as the one before.

It never loses a key that was added, and finds one that was not at most at the stated rate, however far it grows: the
stages' rates fall by TIGHTENING and sum up to the rate. Source: Almeida, Baquero, Preguica, Hutchison, "Scalable Bloom
Filters" (2007), on `dataset.ingest.split_block`.

A filter is derived from the packs that were committed: keys whose rows were not are dropped with the filter. A
snapshot carries its writer's metadata, so that it can name the packs that it covers; the ones committed since are
replayed, and replaying a pack twice changes nothing. Snapshots are little-endian: magic, version, length of the header,
header (JSON), its XXH3-64, each stage's words, XXH3-64 of all words.

Rejected: `rbloom` (fixed size; a fifth of the speed, or 1.1 times with Python's own hash, which no other process
shares), a cuckoo filter (deletes, which nobody needs, and inserts that can fail), a table of all hashes in Postgres
(8 billion rows of index on the path of every COPY).
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
# Almeida et al. recommend 0.8 to 0.9 at growth 2. For 1e-3 in all, the tenth stage then takes 34 bits a key; one half
# would take 65, and would save 4 of 23 in the first.
TIGHTENING = 0.8

# Nothing is gained below the chance that two keys have equal hashes, 4e-10 among eight billion.
MIN_RATE = 1e-9

# 2^64 divided by the golden ratio (Knuth, TAOCP 6.4): odd, so that distinct hashes stay distinct.
SPREAD = np.uint64(0x9E3779B97F4A7C15)

MAGIC = b"SHOALBLM"
VERSION = 1
PREFIX = struct.Struct("<8sII")  # magic, version, length of the header
CHECKSUM = struct.Struct("<Q")
IO_BYTES = 8 * 2**20


class BloomError(DatasetError):
    """A filter that cannot be made as asked, or a snapshot that cannot be trusted."""


class BloomFilter:
    """A set of (N,) uint64 hashes (see `formats.url_hashes`) that may find a key too many and never one too few."""

    def __init__(self, capacity: int, rate: float) -> None:
        """Make an empty filter; beyond `capacity` keys it grows, and its rate still stays at `rate` or below.

        Raises:
            BloomError: the capacity is not positive or too large for one filter, or the rate out of bounds.
        """
        if not MIN_RATE <= rate < 1:
            raise BloomError(f"a Bloom filter's rate is at least {MIN_RATE} and below 1, not {rate}; 0.001 is usual")
        if capacity < 1:
            raise BloomError(f"a Bloom filter holds at least one key, not {capacity}; give the URLs expected")
        self.capacity = capacity
        self.rate = rate
        self.metadata: dict[str, str] = {}  # what the snapshot that this filter was loaded from says of itself
        self._stages: list[SplitBlockFilter] = []
        self._grow()

    @property
    def count(self) -> int:
        """Keys added; the few that were found by mistake are not among them."""
        return sum(stage.count for stage in self._stages)

    @property
    def size_bytes(self) -> int:
        """Memory that the stages take up, which is also about the size of a snapshot."""
        return sum(stage.words.nbytes for stage in self._stages)

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Say of each key whether it was added, or looks like it -> (N,) bool."""
        spread = _spread(hashes)
        found = np.zeros(len(hashes), np.bool_)
        pending = np.arange(len(hashes))
        for stage in reversed(self._stages):  # the last holds half of all keys
            hit = stage.contains(spread[pending])
            found[pending[hit]] = True
            pending = pending[~hit]
        return found

    def first_seen(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Mark the keys that are new: not in the filter, and the first of their kind in this call -> (N,) bool.

        The filter stays as it is.
        """
        unknown = np.flatnonzero(~self.contains(hashes))
        new = np.zeros(len(hashes), np.bool_)
        new[unknown[_first_occurrences(hashes[unknown])]] = True
        return new

    def add(self, hashes: Hashes) -> None:
        """Add the keys that are new; those that are in here already change nothing."""
        for start in range(0, len(hashes), CHUNK_KEYS):
            chunk = hashes[start : start + CHUNK_KEYS]
            self._insert(_spread(chunk[self.first_seen(chunk)]))

    def add_new(self, hashes: Hashes) -> None:
        """Add keys that `first_seen` has marked, before which nothing was added since: they are not asked about again.

        Others than those would be counted twice.
        """
        self._insert(_spread(hashes))

    def expected_wrong(self, new: int) -> float:
        """Work out how many keys were found by mistake while `new` were not, from the stages' loads."""
        passes = 1.0
        for stage in self._stages:
            if stage.count:
                passes *= 1.0 - expected_rate(stage.count / len(stage.words))
        return new * (1.0 - passes) / passes

    def save(self, file: BinaryIO, metadata: Mapping[str, str] | None = None) -> None:
        """Write a snapshot; `metadata` comes back as `filter.metadata`, to say what was added and what the keys are."""
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
        """Read a snapshot back.

        Raises:
            BloomError: no snapshot, of another version, cut short or damaged; delete it and replay the packs.
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
            raise _damaged("it goes on after its end")
        return loaded

    def _insert(self, new: Hashes) -> None:
        """Put spread hashes that are distinct and new into the last stage, and into new ones as each is full."""
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
            raise BloomError(f"{capacity} keys at {rate} are too many for one filter; split the URLs over more slots")
        self._stages.append(sized_for(capacity, rate))

    def _pieces(self) -> Iterator[memoryview]:
        """Yield all words, in order, as writable views of at most IO_BYTES."""
        for stage in self._stages:
            words = stage.words.reshape(-1).view(np.uint8).data
            for start in range(0, len(words), IO_BYTES):
                yield words[start : start + IO_BYTES]


def _spread(hashes: Hashes) -> Hashes:
    """Multiply modulo 2^64: of sorted keys a stage would else get a range, which lies in few of its blocks."""
    return hashes * SPREAD


def _first_occurrences(hashes: Hashes) -> npt.NDArray[np.intp]:
    """Find where each distinct key stands first; np.unique sorts stably for it, which took 2.5 times as long."""
    order = np.argsort(hashes)
    ordered = hashes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
    return np.minimum.reduceat(order, starts) if len(starts) else order


def _read_header(file: BinaryIO) -> dict[str, Any]:
    prefix = _read_exactly(file, PREFIX.size)
    magic, version, length = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise _damaged("it does not begin like one")
    if version != VERSION:
        raise BloomError(
            f"this Bloom filter snapshot is of version {version} and this code reads version {VERSION}; "
            "use the version that wrote it, or delete it and replay the packs"
        )
    encoded = _read_exactly(file, length)
    if xxhash.xxh3_64_intdigest(prefix + encoded) != CHECKSUM.unpack(_read_exactly(file, CHECKSUM.size))[0]:
        raise _damaged("its header does not match its checksum")
    header: dict[str, Any] = json.loads(encoded)
    return header


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    while len(content) < size:  # a raw stream may return less than it was asked for
        more = file.read(size - len(content))
        if not more:
            raise _damaged("it ends early")
        content += more
    return content


def _damaged(why: str) -> BloomError:
    return BloomError(f"this is no whole Bloom filter snapshot ({why}); delete it and replay the packs")
