"""Retry-After in each spelling, and invalid values."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.fetching.retry_after import MAX_SECONDS, retry_after_seconds

NOW = datetime(1994, 11, 6, 8, 49, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"120", 120.0),
        (b" 7 ", 7.0),
        (b"1.5", 1.5),
        (b"3600.25", 3600.25),
        (b"1.5.2", None),
        (b"9" * 400, MAX_SECONDS),
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 7.0),
        (b"Sun Nov  6 08:49:37 1994", 7.0),
        (b"Sun, 06 Nov 1993 08:49:37 GMT", 0.0),
        (b"soon", None),
        (b"-1", None),
        (b"", None),
        (None, None),
    ],
)
def test_each_spelling_of_retry_after_is_read(value: bytes | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@given(st.binary() | st.text().map(lambda text: text.encode()))
def test_any_bytes_are_seconds_or_none(value: bytes) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or 0 <= seconds <= MAX_SECONDS
