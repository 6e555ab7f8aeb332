"""The fixed stage, compared with an implementation of the Parquet specification for one key at a time."""

import numpy as np
import pytest

from dataset.formats.url_hashes import Hashes
from dataset.ingest.split_block import SALT, WORDS, SplitBlockFilter, blocks_for, expected_rate, sized_for
from tests.dataset.ingest.rates import stage_rate

TESTED = 200_000


def random_hashes(count: int, seed: int) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def specified_words(hashes: Hashes, blocks: int) -> list[list[int]]:
    """block_insert and filter_insert of the specification, in plain integers."""
    words = [[0] * WORDS for _ in range(blocks)]
    for key in hashes.tolist():
        block = ((key >> 32) * blocks) >> 32
        for word, salt in enumerate(SALT.tolist()):
            words[block][word] |= 1 << ((((key & 0xFFFFFFFF) * salt) & 0xFFFFFFFF) >> 27)
    return words


def test_the_bits_are_those_of_the_parquet_specification() -> None:
    stage = SplitBlockFilter(np.zeros((37, WORDS), np.uint32), capacity=500)
    hashes = random_hashes(500, seed=1)
    stage.insert(hashes)
    assert stage.words.tolist() == specified_words(hashes, blocks=37)


def test_keys_that_all_fall_into_one_block_are_all_kept() -> None:
    stage = sized_for(100_000, 0.01)
    hashes = np.arange(9000, dtype=np.uint64)  # the high half, which picks the block, is 0
    stage.insert(hashes)
    assert stage.contains(hashes).all()
    assert np.count_nonzero(stage.words.any(axis=1)) == 1


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001])
def test_the_rate_when_full_is_the_rate_asked_for(rate: float) -> None:
    stage = sized_for(50_000, rate)
    stage.insert(random_hashes(50_000, seed=2))
    measured = stage.contains(random_hashes(TESTED, seed=3)).mean()
    deviation = (rate / TESTED) ** 0.5
    assert abs(measured - rate) < 5 * deviation + 0.05 * rate
    assert stage_rate(stage) == pytest.approx(rate, rel=0.05)


def test_the_expected_rate_rises_with_the_load() -> None:
    rates = [expected_rate(load) for load in (1, 5, 10, 20, 40, 80)]
    assert rates == sorted(rates)
    assert rates[0] > 0
    assert rates[-1] < 1


def test_a_stage_for_one_key_has_a_block() -> None:
    assert blocks_for(1, 0.5) == 1
