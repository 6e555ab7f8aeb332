"""An opt-out is honoured when it speaks to everybody or to us, and only then."""

import pytest

from workers.fetching.opt_out import is_opted_out

DIRECTIVES = frozenset({"noai", "noimageai", "noindex", "noimageindex"})


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
        b"unavailable_after: 25 Jun 2010 15:00:00 PST, noimageindex",
    ],
)
def test_a_header_that_reserves_is_honoured(line: bytes) -> None:
    assert is_opted_out([(b"x-robots-tag", line)], "shoal", DIRECTIVES)


@pytest.mark.parametrize(
    "line", [b"", b"all", b"nofollow", b"otherbot: noindex, noai", b"noindexing", b"max-image-preview: none", b"\xff"]
)
def test_a_header_that_speaks_of_something_else_is_not(line: bytes) -> None:
    assert not is_opted_out([(b"x-robots-tag", line)], "shoal", DIRECTIVES)


def test_every_header_is_read_and_a_text_mining_reservation_counts() -> None:
    assert is_opted_out([(b"x-robots-tag", b"all"), (b"x-robots-tag", b"noai")], "shoal", DIRECTIVES)
    assert is_opted_out([(b"tdm-reservation", b"1")], "shoal", DIRECTIVES)
    assert not is_opted_out([(b"tdm-reservation", b"0")], "shoal", DIRECTIVES)


def test_without_directives_nothing_is_honoured() -> None:
    assert not is_opted_out([(b"x-robots-tag", b"noai"), (b"tdm-reservation", b"1")], "shoal", frozenset())
