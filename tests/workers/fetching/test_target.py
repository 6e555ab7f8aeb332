"""URLs are parsed as strictly as a connection needs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed
from workers.fetching.target import parse_target, redirect_target


@pytest.mark.parametrize(
    ("url", "plain", "authority"),
    [
        ("http://example.com", "http://example.com/", "example.com"),
        (" \thttps://Example.COM./a?b=c#d\n", "https://example.com/a?b=c", "example.com"),
        ("http://example.com:80/", "http://example.com/", "example.com"),
        ("http://example.com:8080/", "http://example.com:8080/", "example.com:8080"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC", "xn--bcher-kva.example"),
        ("http://a_b.example/", "http://a_b.example/", "a_b.example"),
        ("https://h.example/a b.jpg", "https://h.example/a%20b.jpg", "h.example"),
        ("https:/h.example/a.jpg", "https://h.example/a.jpg", "h.example"),
        ("https:\\\\h.example\\x\\..\\a.jpg", "https://h.example/a.jpg", "h.example"),
        ("http://evil.example\\@example.com/", "http://evil.example/@example.com/", "evil.example"),
        ("http://%31.example/", "http://1.example/", "1.example"),
        ("http://example.com/\ud800", "http://example.com/%EF%BF%BD", "example.com"),
        ("https://i❤.ws/%41%zz", "https://xn--i-7iq.ws/%41%zz", "xn--i-7iq.ws"),
        ("http://[2A00::1]:81/x", "http://[2a00::1]:81/x", "[2a00::1]:81"),
    ],
)
def test_a_url_is_parsed(url: str, plain: str, authority: str) -> None:
    target = parse_target(url)
    assert (target.url, target.authority) == (plain, authority)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/a.jpg",
        "//example.com/a.jpg",
        "ftp://example.com/",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "http://",
        "http://user:secret@example.com/",
        "http://exa mple.com/",
        "http://example.com:99999/",
        "http://example.com:0/",
        "http://example.com:x/",
        "http://[::1/",
        "http://[::1.example]/",
        "http://a..b/",
        "http://.a/",
        f"http://{'a' * 64}.example/",
        "http://example.com/" + "a" * 8_000,
    ],
)
def test_a_url_that_cannot_be_requested_is_bad(url: str) -> None:
    with pytest.raises(LinkFailed) as failed:
        parse_target(url)
    assert failed.value.outcome is Outcome.BAD_URL


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (b"b.jpg", "http://example.com/x/b.jpg"),
        (b"/b.jpg", "http://example.com/b.jpg"),
        (b"//other.example/b.jpg", "http://other.example/b.jpg"),
        (b"https://example.com/\xfc", "https://example.com/%C3%BC"),
        ("https://example.com/ü".encode(), "https://example.com/%C3%BC"),
        (b"https:/example.com\\b c.jpg", "https://example.com/b%20c.jpg"),
        (b"http:b.jpg", "http://example.com/x/b.jpg"),
        (b"/x/%2e%2E/%41.jpg#top", "http://example.com/%41.jpg"),
        (b"?q=1", "http://example.com/x/a.jpg?q=1"),
    ],
)
def test_a_location_is_resolved_against_the_url_of_its_response(location: bytes, url: str) -> None:
    assert redirect_target(parse_target("http://example.com/x/a.jpg"), location).url == url


@pytest.mark.parametrize("location", [None, b"", b"javascript:alert(1)", b"http://[", b"http://u:p@example.com/"])
def test_an_invalid_location_is_a_bad_redirect(location: bytes | None) -> None:
    with pytest.raises(LinkFailed) as failed:
        redirect_target(parse_target("http://example.com/"), location)
    assert failed.value.outcome is Outcome.BAD_REDIRECT


@settings(max_examples=500, deadline=None)
@given(
    st.text("ab1.-_", min_size=1, max_size=8),
    st.sampled_from(["", ":80", ":443", ":8080", ":65535", ":65536", ":080", ":"]),
    st.text("ab.-_:/?#%@[]\\ ~é&=;'\"+", max_size=12),
)
def test_the_fast_and_the_full_parser_agree(host: str, port: str, rest: str) -> None:
    def taken(url: str) -> object:
        try:
            return parse_target(url)
        except LinkFailed as error:
            return error.outcome, error.reason

    url = f"http://{host}{port}/{rest}"
    assert taken(url) == taken(url.replace("http", "HTTP", 1))  # only the long way knows capitals
