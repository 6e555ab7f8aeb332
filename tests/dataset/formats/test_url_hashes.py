import pyarrow as pa
import pytest
import xxhash

from dataset.formats.url_hashes import url_hashes


def test_a_url_hashes_to_the_xxh3_of_its_utf8() -> None:
    assert url_hashes(["https://example.com/ü.jpg"]).tolist() == [
        xxhash.xxh3_64_intdigest("https://example.com/ü.jpg".encode())
    ]


def test_lists_arrays_slices_and_chunks_hash_alike() -> None:
    urls = ["https://a.example/1", "https://a.example/2", "https://b.example/ü"]
    expected = url_hashes(urls).tolist()
    assert url_hashes(pa.array(urls)).tolist() == expected
    assert url_hashes(pa.array(["skipped", *urls]).slice(1)).tolist() == expected
    assert url_hashes(pa.chunked_array([urls[:1], urls[1:]])).tolist() == expected


def test_no_urls_give_no_hashes() -> None:
    assert url_hashes([]).tolist() == []
    assert url_hashes([], []).tolist() == []
    assert url_hashes(pa.chunked_array([], pa.string())).tolist() == []


def test_with_languages_the_same_url_in_two_languages_is_two_keys() -> None:
    url = "https://example.com/1.jpg"
    hashes = url_hashes([url] * 4, ["en", "de", None, "en"]).tolist()
    assert hashes[0] == hashes[3]
    assert len({*hashes, *url_hashes([url]).tolist()}) == 4


def test_url_and_language_do_not_run_together() -> None:
    first, second = url_hashes(["https://example.com/d", "https://example.com/"], ["e", "de"])
    assert first != second


def test_a_null_url_is_an_error() -> None:
    with pytest.raises(TypeError):
        url_hashes(pa.array(["https://example.com", None]))
