"""Blocks: what a pattern covers, and which patterns are invalid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.candidates.urls import Unresolved, host_of, parse_url
from tracker.protocol.blocklist import Blocklist, PatternError, read_pattern


def covers(patterns: list[str], url: str) -> bool:
    parts = parse_url(url)
    assert not isinstance(parts, Unresolved)
    return Blocklist(map(read_pattern, patterns)).covers(parts.host, parts.authority, parts.url)


@pytest.mark.parametrize(
    "text",
    ["", "com", "*.example.com", "ftp://example.com/", "http://", "http://[::1", "example.com:80", "a b.example",
     "https://me@example.com/", "https://example.com/a?b=1", "https://example.com/#top", "example.com:port/",
     "a..example", "1.2.3.4.5", "::g", "https://example.com/" + "a" * 2000, "xn--a.example\nb.example", "☃☃..example"],
)  # fmt: skip
def test_an_invalid_pattern_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(PatternError, match=r"^[^\n]+ cannot be blocked: [^\n]+$"):
        read_pattern(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" Example.COM. ", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("i❤.ws", "xn--i-7iq.ws"),
        ("Ｅxample。com", "example.com"),
        ("-lead.example", "-lead.example"),
        ("93.184.216.34", "93.184.216.34"),
        ("93.184.55330", "93.184.216.34"),
        ("[2001:DB8:0::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("HTTPS:\\\\example.com\\a\\b", "example.com/a/b/"),
        ("example.com:80/a", "example.com:80/a/"),
        ("https://example.com", "example.com/"),
        ("http://example.com:80/a/../b//c/", "example.com/b/c/"),
        ("https://example.com:80/", "example.com:80/"),
        ("example.com/%7Eme/%c3%bc", "example.com/~me/%C3%BC/"),
        ("http://[2001:DB8::1]:8080/x", "[2001:db8::1]:8080/x/"),
    ],
)
def test_a_pattern_has_one_normal_form(text: str, normal: str) -> None:
    assert read_pattern(text) == normal


@pytest.mark.parametrize(
    ("pattern", "url", "is_covered"),
    [
        ("example.com", "http://example.com/a.jpg", True),
        ("example.com", "https://img.cdn.example.com:8443/a.jpg", True),
        ("example.com", "http://notexample.com/", False),
        ("img.example.com", "http://example.com/", False),
        ("https://example.com", "http://example.com/a.jpg", True),
        ("https://example.com", "http://img.example.com/a.jpg", False),
        ("example.com/photos", "http://example.com/photos", True),
        ("example.com/photos/", "https://example.com/photos/1.jpg?size=2", True),
        ("example.com/photos", "http://example.com/photos2/1.jpg", False),
        ("example.com/photos", "http://example.com/Photos/1.jpg", False),
        ("example.com/photos", "http://example.com/x/..//ph%6ftos/./1.jpg", True),
        ("example.com/photos", "http://example.com:8080/photos/1.jpg", False),
        ("example.com:8080/photos", "http://example.com:8080/photos/1.jpg", True),
        ("10.1.2.3", "http://10.1.2.3/", True),
        ("2001:db8::1", "http://[2001:DB8::1]/", True),
        ("http://[2001:db8::1]/x", "http://[2001:db8:0::1]/x/y", True),
        ("faß.de", "https://img.FASS.de/a.jpg", False),
        ("faß.de", "https://img.faß.de./a.jpg", True),
        ("☃.net", "https://xn--n3h.net/a.jpg", True),
        ("1.2.3.4", "http://9.1.2.3.4.example/", False),
    ],
)
def test_a_pattern_covers_at_the_borders_of_labels_and_paths(pattern: str, url: str, is_covered: bool) -> None:
    assert covers([pattern], url) is is_covered


def test_a_lifted_pattern_covers_no_more_and_leaves_the_others() -> None:
    known = Blocklist(["example.com", "example.com/a/", "example.com/b/"])
    known.update([], ["example.com", "example.com/a/", "never.example", "never.example/a/"])
    assert not known.covers("example.com", "example.com", "http://example.com/a/1")
    assert known.covers("example.com", "example.com", "http://example.com/b/1")
    known.update([], ["example.com/b/"])
    assert not known


@given(st.text(max_size=60))
def test_any_text_is_a_pattern_that_covers_itself_or_an_error(text: str) -> None:
    try:
        pattern = read_pattern(text)
    except PatternError:
        return
    assert read_pattern(pattern) == pattern
    assert covers(
        [pattern], f"http://{pattern}" if pattern.count(":") < 2 or "[" in pattern else f"http://[{pattern}]/"
    )


@given(st.lists(st.text("aB1ß❤。-_é日", min_size=1, max_size=5), min_size=2, max_size=4).map(".".join))
def test_a_blocked_host_is_the_host_that_a_worker_asks(name: str) -> None:
    host = host_of(f"https://{name}/a.jpg")
    if "." in host:  # `com` alone is not blocked
        assert read_pattern(name) == host
        assert read_pattern(f"http://{name}/") == f"{host}/"
    else:
        with pytest.raises(PatternError):
            read_pattern(name)
