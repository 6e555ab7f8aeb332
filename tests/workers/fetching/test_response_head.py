"""Heads are repaired, in time proportional to their length."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.fetching.response_head import MAX_HEAD_BYTES, repair_head


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.from_regex(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True),
            st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,12}", fullmatch=True),
        ).filter(lambda field: field[0].lower() not in (b"content-length", b"transfer-encoding", b"x")),
        max_size=6,
    )
)
def test_an_invalid_line_does_not_change_the_rest_of_a_head(fields: list[tuple[bytes, bytes]]) -> None:
    good = b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Length: 7", *(b"%b:%b" % field for field in fields)))
    mended = repair_head(good + b"\r\nno field")
    assert repair_head(good) == mended
    assert mended.length == 7


@pytest.mark.parametrize(
    "line",
    [
        b"a" * MAX_HEAD_BYTES,
        b"a:" + b" " * MAX_HEAD_BYTES + b"\x01",
        b"a" + b" " * MAX_HEAD_BYTES,
        b"a:\x01\n" * 20_000,
    ],
)
def test_any_head_is_parsed_quickly(line: bytes) -> None:
    began = time.process_time()
    repair_head(b"HTTP/1.1 200 OK\r\n" + line)
    assert time.process_time() - began < 0.5
