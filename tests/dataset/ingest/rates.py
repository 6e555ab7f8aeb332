"""False-positive rates, computed from the bits of a filter."""

import numpy as np

from dataset.ingest.bloom import BloomFilter
from dataset.ingest.split_block import SplitBlockFilter


def estimated_rate(bloom: BloomFilter) -> float:
    """Return the probability that the filter reports a key that was not added."""
    passes = 1.0
    for stage in bloom._stages:
        passes *= 1.0 - stage_rate(stage)
    return 1.0 - passes


def stage_rate(stage: SplitBlockFilter) -> float:
    """Return the probability that one stage reports a key that was not added."""
    set_bits = np.bitwise_count(stage.words)  # (blocks, 8)
    return float(np.prod(set_bits / 32.0, axis=1).mean())
