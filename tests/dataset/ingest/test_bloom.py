import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.formats.url_hashes import Hashes
from dataset.ingest.bloom import BloomError, BloomFilter
from tests.dataset.ingest.rates import estimated_rate

hash_lists = st.lists(st.integers(0, 2**64 - 1), max_size=60)
batches = st.lists(hash_lists, max_size=6)


def hashes_of(values: list[int]) -> Hashes:
    return np.array(values, np.uint64)


def random_hashes(count: int, seed: int) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def snapshot(bloom: BloomFilter, metadata: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    bloom.save(file, metadata)
    return file.getvalue()


def load(content: bytes) -> BloomFilter:
    return BloomFilter.load(io.BytesIO(content))


@given(batches, st.integers(1, 40))
def test_a_key_that_was_added_is_always_found(added: list[list[int]], capacity: int) -> None:
    bloom = BloomFilter(capacity, 0.01)
    for values in added:
        bloom.add(hashes_of(values))
    assert bloom.contains(hashes_of([value for values in added for value in values])).all()


@given(batches, st.integers(1, 40))
def test_adding_only_what_was_first_seen_makes_the_filter_that_adding_all_makes(
    added: list[list[int]], capacity: int
) -> None:
    asked, unasked = BloomFilter(capacity, 0.01), BloomFilter(capacity, 0.01)
    for values in added:
        hashes = hashes_of(values)
        asked.add(hashes)
        unasked.add_new(hashes[unasked.first_seen(hashes)])
    assert snapshot(unasked) == snapshot(asked)


@given(batches, hash_lists, st.integers(1, 40))
def test_a_snapshot_comes_back_as_it_was_saved(added: list[list[int]], asked: list[int], capacity: int) -> None:
    bloom = BloomFilter(capacity, 0.01)
    for values in added:
        bloom.add(hashes_of(values))
    content = snapshot(bloom, {"key": "url", "ordinal": "17"})
    loaded = load(content)
    assert loaded.contains(hashes_of(asked)).tolist() == bloom.contains(hashes_of(asked)).tolist()
    assert (loaded.count, estimated_rate(loaded)) == (bloom.count, estimated_rate(bloom))
    assert loaded.metadata == {"key": "url", "ordinal": "17"}
    assert snapshot(loaded, loaded.metadata) == content


@given(st.lists(st.integers(0, 39), max_size=60), st.lists(st.integers(0, 39), max_size=60))
def test_first_seen_marks_each_new_key_at_its_first_occurrence(added: list[int], asked: list[int]) -> None:
    keys = random_hashes(40, seed=1)  # like hashes of URLs; keys that are chosen badly can collide at any rate
    bloom = BloomFilter(10, 1e-9)
    bloom.add(keys[np.array(added, np.int64)])
    known = set(added)
    expected = []
    for value in asked:
        expected.append(value not in known)
        known.add(value)
    assert bloom.first_seen(keys[np.array(asked, np.int64)]).tolist() == expected


@given(hash_lists)
def test_adding_keys_again_changes_nothing(values: list[int]) -> None:
    bloom = BloomFilter(10, 0.01)
    bloom.add(hashes_of(values))
    once = snapshot(bloom)
    bloom.add(hashes_of(values + values))
    assert snapshot(bloom) == once


def test_first_seen_leaves_the_filter_as_it_is() -> None:
    bloom = BloomFilter(10, 0.01)
    assert bloom.first_seen(random_hashes(5, seed=1)).all()
    assert bloom.first_seen(random_hashes(5, seed=1)).all()
    assert bloom.count == 0


@pytest.mark.parametrize("capacity", [100_000, 25_000, 1000])
def test_the_rate_stays_within_what_was_stated_however_far_it_grows(capacity: int) -> None:
    rate = 0.01
    bloom = BloomFilter(capacity, rate)
    for seed in range(10):
        bloom.add(random_hashes(10_000, seed))
    measured = bloom.contains(random_hashes(200_000, seed=99)).mean()
    assert measured <= rate
    assert estimated_rate(bloom) <= rate
    assert measured == pytest.approx(estimated_rate(bloom), rel=0.1)
    assert bloom.count == pytest.approx(100_000, rel=rate)


def test_the_rate_of_an_empty_filter_is_zero() -> None:
    assert estimated_rate(BloomFilter(1000, 0.01)) == 0


def test_keys_of_one_slot_do_not_raise_the_rate() -> None:
    slots = np.uint64(64)
    bloom = BloomFilter(20_000, 0.01)
    bloom.add(random_hashes(20_000, seed=1) * slots)  # the low six bits are equal, as in a pack's slot
    assert bloom.contains(random_hashes(100_000, seed=2) * slots).mean() <= 0.01


def test_sorted_keys_do_not_raise_the_rate() -> None:
    bloom = BloomFilter(1000, 0.01)
    bloom.add(np.sort(random_hashes(50_000, seed=1)))
    assert bloom.contains(random_hashes(100_000, seed=2)).mean() <= 0.01
    assert estimated_rate(bloom) <= 0.01


def test_it_grows_by_doubling_and_only_when_full() -> None:
    bloom = BloomFilter(1000, 1e-6)
    empty = bloom.size_bytes
    bloom.add(random_hashes(1000, seed=1))
    assert bloom.size_bytes == empty
    bloom.add(random_hashes(1, seed=2))
    assert bloom.size_bytes > 3 * empty
    grown = bloom.size_bytes
    bloom.add(random_hashes(1999, seed=3))
    assert bloom.size_bytes == grown


def test_it_takes_no_keys() -> None:
    bloom = BloomFilter(1, 0.5)
    bloom.add(hashes_of([]))
    assert bloom.contains(hashes_of([])).tolist() == []
    assert bloom.count == 0


@pytest.mark.parametrize(
    ("capacity", "rate"), [(0, 0.01), (-5, 0.01), (10, 0.0), (10, 1.0), (10, 1e-12), (2**50, 1e-3)]
)
def test_a_filter_that_cannot_be_is_refused(capacity: int, rate: float) -> None:
    with pytest.raises(BloomError):
        BloomFilter(capacity, rate)


def flipped(position: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[position] ^= 1
        return bytes(changed)

    return flip


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: b"", "ends early"),
        (lambda content: content[:10], "ends early"),
        (lambda content: content[:40], "ends early"),
        (lambda content: content[:-1], "ends early"),
        (lambda content: content + b"\0", "bytes follow its end"),
        (flipped(0), "its magic is missing"),
        (flipped(8), "version 0"),
        (flipped(15), "ends early"),
        (flipped(12), "header does not match"),
        (flipped(30), "header does not match"),
        (flipped(-20), "words do not match"),
        (flipped(-1), "words do not match"),
    ],
)
def test_a_damaged_snapshot_is_refused_with_the_reason(damage: Callable[[bytes], bytes], sentence: str) -> None:
    bloom = BloomFilter(100, 0.01)
    bloom.add(random_hashes(250, seed=1))
    with pytest.raises(BloomError, match=sentence):
        load(damage(snapshot(bloom)))


@given(st.data())
def test_no_flipped_bit_of_a_snapshot_goes_unnoticed(data: st.DataObject) -> None:
    bloom = BloomFilter(20, 0.01)
    bloom.add(random_hashes(30, seed=1))
    content = bytearray(snapshot(bloom))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BloomError):
        load(bytes(content))


class Trickle(io.BytesIO):
    """A stream that gives at most seven bytes at a time, as a raw one may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 7))


def test_a_stream_that_trickles_is_read_to_its_end() -> None:
    bloom = BloomFilter(20, 0.01)
    bloom.add(random_hashes(30, seed=1))
    assert BloomFilter.load(Trickle(snapshot(bloom))).count == bloom.count


def test_the_keys_that_are_expected_to_be_found_wrongly_are_as_many_as_are() -> None:
    bloom = BloomFilter(1000, 0.05)
    assert bloom.expected_wrong(1000) == 0
    wrong = expected = 0.0
    for seed in range(20):
        hashes = random_hashes(2000, seed)
        new = int(bloom.first_seen(hashes).sum())
        wrong, expected = wrong + 2000 - new, expected + bloom.expected_wrong(new)
        bloom.add(hashes)
    assert expected > 500
    assert wrong == pytest.approx(expected, rel=0.15)  # the standard deviation is 4 %
    assert expected < 0.05 * 20 * 2000
