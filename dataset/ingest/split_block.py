"""A split-block Bloom filter of fixed size, in NumPy: one stage of `dataset.ingest.bloom`.

A key uses one block of 256 bits, which fits a cache line, and sets one bit in each of the block's eight words. Source:
https://parquet.apache.org/docs/file-format/bloomfilter/ (constants, block and mask are Parquet's; the hash is XXH3
instead of XXH64), after Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient Bloom Filters" (2007).

Invariant: an inserted key is always contained; bits are only set, never cleared.

Rejected: a classic Bloom filter, which saves 15 % of the bits at 1e-3 but touches ten cache lines per key. Parquet's
sizing, `-8 / ln(1 - rate ** (1/8))`, which assumes equally full blocks: at 1e-4 it gives 21.0 bits per key where 26.3
are needed, so the load is solved from the Poisson mixture here. `np.bitwise_or.at`, and sorting by block, to insert two
keys of one block at once: repeating the few overwritten ones is simpler.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.formats.url_hashes import Hashes

WORDS = 8
BLOCK_BITS = 256

# Odd, so that the product is a permutation of the 32-bit integers. From the Parquet specification.
SALT = np.array(
    [0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31], np.uint32
)

# Masks and gathered blocks of this many keys, 2 x 128 KiB, stay in the cache: 33M keys/s, 17M with 65,536 keys.
CHUNK_KEYS = 4096
# The block is chosen by multiplying 32 bits of the hash, so more blocks than this could not be reached.
MAX_BLOCKS = 2**32


@dataclass(slots=True)
class SplitBlockFilter:
    """`words` is (blocks, 8) uint32; `count` is the number of inserted keys, at most `capacity`."""

    words: npt.NDArray[np.uint32]
    capacity: int
    count: int = 0

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return for each key whether all its bits are set, (N,) bool."""
        found = np.empty(len(hashes), np.bool_)
        for start in range(0, len(hashes), CHUNK_KEYS):
            chunk = slice(start, start + CHUNK_KEYS)
            found[chunk] = ~self._lacks(self._blocks(hashes[chunk]), _masks(hashes[chunk]))
        return found

    def insert(self, hashes: Hashes) -> None:
        """Set the bits of distinct keys and count them; the stage must have room for them."""
        for start in range(0, len(hashes), CHUNK_KEYS):
            chunk = hashes[start : start + CHUNK_KEYS]
            self._set(self._blocks(chunk), _masks(chunk))
        self.count += len(hashes)

    def _blocks(self, hashes: Hashes) -> npt.NDArray[np.intp]:
        return ((hashes >> np.uint64(32)) * np.uint64(len(self.words)) >> np.uint64(32)).astype(np.intp)

    def _set(self, blocks: npt.NDArray[np.intp], masks: Hashes) -> None:
        """Set the masks' bits. Of keys that share a block, one is written per round, and the others are repeated.

        Each round sets a new bit in every remaining block, so even chosen hashes need at most 256 rounds.
        """
        words = self.words.view(np.uint64)  # (blocks, 4)
        while len(blocks):
            words[blocks] |= masks
            left = self._lacks(blocks, masks)
            blocks, masks = blocks[left], masks[left]

    def _lacks(self, blocks: npt.NDArray[np.intp], masks: Hashes) -> npt.NDArray[np.bool_]:
        missing = masks & ~self.words.view(np.uint64).take(blocks, axis=0)  # (N, 4)
        lacks: npt.NDArray[np.bool_] = (missing[:, 0] | missing[:, 1] | missing[:, 2] | missing[:, 3]) != 0
        return lacks  # any(axis=1) takes four times as long


def sized_for(capacity: int, rate: float) -> SplitBlockFilter:
    """Return an empty stage whose false-positive rate is at most `rate` when it holds `capacity` keys."""
    blocks = blocks_for(capacity, rate)
    return SplitBlockFilter(np.zeros((blocks, WORDS), np.uint32), capacity)


def blocks_for(capacity: int, rate: float) -> int:
    """Return how many blocks of 32 bytes hold `capacity` keys at this false-positive rate."""
    return max(1, math.ceil(capacity / _keys_per_block(rate)))


def expected_rate(load: float) -> float:
    """Return the false-positive rate at an average of `load` keys per block.

    The number of keys in a block is Poisson distributed; j keys leave a bit of a 32-bit word clear with probability
    (31/32)^j.
    """
    keys = np.arange(math.ceil(load + 12 * math.sqrt(load) + 20))  # twelve standard deviations; the rest is below 1e-30
    log_factorials = np.array([math.lgamma(j + 1) for j in keys])
    weights = np.exp(keys * math.log(load) - load - log_factorials)
    return float(np.sum(weights * (1 - (31 / 32) ** keys) ** WORDS))


@functools.cache
def _keys_per_block(rate: float) -> float:
    """Solve expected_rate(load) = rate by bisection; the rate rises with the load."""
    low, high = 0.0, 1000.0  # at 1000 keys per block every key is found
    for _ in range(60):
        middle = (low + high) / 2
        if expected_rate(middle) > rate:
            high = middle
        else:
            low = middle
    return low


def _masks(hashes: Hashes) -> Hashes:
    """Return one bit in each of the eight words, (N, 4) uint64 with two words in each."""
    bits = hashes.astype(np.uint32)[:, None] * SALT  # (N, 8); the low half of the hash, product modulo 2^32
    bits >>= np.uint32(27)
    np.left_shift(np.uint32(1), bits, out=bits)
    return bits.view(np.uint64)
