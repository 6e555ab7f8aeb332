"""An opt-out is respected exactly when it addresses all agents or ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.fetching.opt_out import WORDS, is_opted_out


@pytest.mark.parametrize(
    "line",
    [
        b"noai",
        b"NoIndex",
        b"nofollow, noimageai",
        b"none",
        b"*: noindex",
        b"shoal: noai",
        b"otherbot: nofollow, shoal: noai",
        b"max-snippet: 20, noindex",
        b"noml",
        b"unavailable_after: 25 Jun 2010 15:00:00 PST, noimageindex",
        b"unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT, noai",
        b"unavailable_after: Friday, 25-Jun-27 15:00:00 UTC, noimageai",
        b"unavailable_after: 2027-06-25T15:00:00+00:00, noai",
        b"unavailable_after: Fri, 2027-06-25T15:00:00Z, noai",
        b"shoal: unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT, noai",
        b"made-up-directive: 7, noai",
        b"otherbot, noai",
        b"noindex nofollow",
        b"nofollow; noai",
        b"otherbot: nofollow, *: noai",
        b"max-image-preview:large,max-snippet:-1,noai",
    ],
)
def test_a_reserving_header_is_respected(line: bytes) -> None:
    assert is_opted_out([(b"x-robots-tag", line)], "shoal", WORDS)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"all",
        b"nofollow",
        b"otherbot: noindex, noai",
        b"noindexing",
        b"max-image-preview: none",
        b"\xff",
        b"otherbot: unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT, noai",
        b"unavailable_after: noai",
        b"no ai",
        b"noais",
        b"index, follow",
    ],
)
def test_an_unrelated_header_is_ignored(line: bytes) -> None:
    assert not is_opted_out([(b"x-robots-tag", line)], "shoal", WORDS)


@given(st.text("0123456789:,;+-/. TZ", max_size=30), st.sampled_from(["", "max-snippet: ", "unavailable_after: Fri, "]))
def test_no_date_or_number_hides_a_reservation_behind_it(value: str, name: str) -> None:
    line = f"unavailable_after: {name}{value}, noai".encode()
    assert is_opted_out([(b"x-robots-tag", line)], "shoal", WORDS)


@given(st.binary(max_size=60), st.sampled_from([b"x-robots-tag", b"content-usage", b"tdm-reservation"]))
def test_any_bytes_are_a_header(value: bytes, name: bytes) -> None:
    assert is_opted_out([(name, value)], "shoal", WORDS) in (True, False)


def test_every_header_is_read_and_a_text_mining_reservation_counts() -> None:
    assert is_opted_out([(b"x-robots-tag", b"all"), (b"x-robots-tag", b"noai")], "shoal", WORDS)
    assert is_opted_out([(b"tdm-reservation", b"1")], "shoal", WORDS)
    assert not is_opted_out([(b"tdm-reservation", b"0")], "shoal", WORDS)


@pytest.mark.parametrize(
    ("value", "is_reserved"),
    [
        (b"train-ai=n", True),
        (b"search=y, Train-AI = n", True),
        (b'train-ai=n;reason="mine, all mine"', True),
        (b"train-ai=y, train-ai=n", True),  # in doubt
        (b"train-ai=y", False),
        (b"search=n", False),
        (b"train-ai", False),
        (b"train-ainotn", False),
        (b"", False),
    ],
)
def test_an_ai_preference_is_respected(value: bytes, is_reserved: bool) -> None:
    assert is_opted_out([(b"content-usage", value)], "shoal", WORDS) is is_reserved


def test_the_words_are_a_setting() -> None:
    head = [(b"x-robots-tag", b"noarchive"), (b"content-usage", b"search=n"), (b"tdm-reservation", b"1")]
    assert not is_opted_out(head, "shoal", frozenset({"noai"}))
    for word in ("noarchive", "search=n", "tdm-reservation=1"):
        assert is_opted_out(head, "shoal", frozenset({word}))


def test_without_words_no_opt_out_is_respected() -> None:
    assert not is_opted_out([(b"x-robots-tag", b"noai"), (b"tdm-reservation", b"1")], "shoal", frozenset())
