"""Hashes, hosts and distinct counts, against other implementations."""

import datasketches
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.stats.hashing import ByteRanges, hash_ranges
from dataset.stats.hosts import host_hashes, host_of
from dataset.stats.hyperloglog import RELATIVE_ERROR, add_hashes, empty_registers, estimate


def murmur_64a(data: bytes, seed: int) -> int:
    """MurmurHash64A, as published, one value at a time."""
    multiplier, mask = 0xC6A4A7935BD1E995, 2**64 - 1
    state = seed ^ (len(data) * multiplier & mask)
    for at in range(0, len(data), 8):
        word = data[at : at + 8]
        number = int.from_bytes(word, "little")
        if len(word) == 8:
            number = number * multiplier & mask
            number = (number ^ number >> 47) * multiplier & mask
            state = (state ^ number) * multiplier & mask
        else:
            state = (state ^ number) * multiplier & mask
    state = (state ^ state >> 47) * multiplier & mask
    return state ^ state >> 47


def hash_all(strings: list[str]) -> list[int]:
    return [int(each) for each in hash_ranges(ByteRanges.of(pa.array(strings, pa.string())))]


@given(st.lists(st.text(max_size=70), max_size=30))
def test_each_string_is_hashed_on_its_own(strings: list[str]) -> None:
    assert hash_all(strings) == [hash_all([each])[0] for each in strings]
    assert len(set(hash_all(strings))) == len(set(strings))


@given(st.lists(st.integers(0, 12), max_size=20))
def test_texts_of_whole_words_hash_as_murmur_hash_64a(lengths: list[int]) -> None:
    strings = ["picture." * length for length in lengths]
    assert hash_all(strings) == [murmur_64a(each.encode(), 9001) for each in strings]


def test_a_slice_of_a_column_hashes_as_the_column() -> None:
    column = pa.array([f"caption {number}" for number in range(100)])
    assert (
        hash_ranges(ByteRanges.of(column.slice(40, 20))).tolist() == hash_ranges(ByteRanges.of(column)).tolist()[40:60]
    )


def test_very_long_texts_do_not_disturb_their_neighbours() -> None:
    long = "x" * 400_000
    assert hash_all(["a", long, "b"]) == [hash_all(["a"])[0], hash_all([long])[0], hash_all(["b"])[0]]


URLS = {
    "http://example.com/a": "example.com",
    "https://Example.COM": "example.com",
    "https://example.com?q": "example.com",
    "http://example.com#f": "example.com",
    "https://user:secret@example.com/x": "example.com",
    "http://example.com:8080/": "example.com",
    "HTTP://EXAMPLE.com/": "example.com",
    "http://[2001:db8::1]:80/": "2001:db8::1",
    "http://münchen.example/": "xn--mnchen-3ya.example",
    "http://example.com\\@evil.example/": "example.com",
    "http://" + "a" * 60 + ".example/": "a" * 60 + ".example",
    "http://": "",
    "http:///path": "path",
    "https://a.example./x": "a.example",
    "http://0x7f.1/": "127.0.0.1",
    "no url at all": "",
    "": "",
    "http://[broken": "",
}


@pytest.mark.parametrize(("url", "host"), URLS.items())
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


url_texts = st.sampled_from([*URLS]) | st.text(max_size=80) | st.builds(
    "{}://{}".format, st.sampled_from(["http", "https"]), st.text("abZ.-:@/?#\\[]% 1é", max_size=70)
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(url_texts, max_size=10))
def test_a_column_of_urls_gives_the_same_hosts_as_one_at_a_time(urls: list[str]) -> None:
    hashes, rows = host_hashes(pa.array(urls, pa.string()))
    found = dict(zip(rows.tolist(), hashes.tolist(), strict=True))
    hosts = {row: host_of(url) for row, url in enumerate(urls)}
    assert found == {row: hash_all([host])[0] for row, host in hosts.items() if host}


@pytest.mark.parametrize("count", [0, 1, 2, 10, 100, 1_000, 20_000, 60_000, 300_000])
def test_distinct_counts_are_as_good_as_datasketches(count: int) -> None:
    values = [f"value {number}" for number in range(count)]
    registers, sketch = empty_registers(), datasketches.hll_sketch(14)
    add_hashes(registers, np.array(hash_all(values), np.uint64))
    for value in values:
        sketch.update(value)
    assert abs(estimate(registers) - count) <= 3 * RELATIVE_ERROR * count
    assert abs(estimate(registers) - sketch.get_estimate()) <= 5 * RELATIVE_ERROR * count


def test_adding_a_value_again_changes_nothing() -> None:
    registers = empty_registers()
    hashes = np.array(hash_all(["a", "b", "c"]), np.uint64)
    add_hashes(registers, hashes)
    before = registers.copy()
    add_hashes(registers, hashes)
    assert (registers == before).all()
    assert estimate(registers) == 3
