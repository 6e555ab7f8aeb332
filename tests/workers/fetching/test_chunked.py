"""Chunked bodies are read as browsers read them, in pieces of any size."""

from collections.abc import Iterator

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.pictures.outcomes import Outcome
from workers.fetching.chunked import MAX_LINE_BYTES, ChunkDecoder
from workers.fetching.failure import LinkFailed


def decoded(sent: bytes, size: int = 1 << 16) -> tuple[bytes, bool, ChunkDecoder]:
    """Decode bytes in pieces of this size; return the body, whether it ended, and the decoder."""
    decoder, body = ChunkDecoder(), b""
    for start in range(0, len(sent) + size, size):
        while piece := decoder.next_piece():
            body += piece
        if piece == b"":
            decoder.feed(sent[start:])
            return body, True, decoder
        decoder.feed(sent[start : start + size])
    return body, False, decoder


def chunks(bodies: list[bytes], line: bytes = b"\r\n", behind: bytes = b"") -> Iterator[bytes]:
    for body in bodies:
        yield b"%x%b%b%b%b" % (len(body), behind, line, body, line)
    yield b"0%b%b%b" % (behind, line, line)


bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
lines = st.sampled_from([b"\r\n", b"\n"])
behind = st.sampled_from([b"", b"  ", b";a=b", b' ; a="b"', b"\t"])


@given(bodies, lines, behind, st.integers(1, 50))
def test_a_chunked_body_is_the_same_in_pieces_of_any_size(
    bodies: list[bytes], line: bytes, behind: bytes, size: int
) -> None:
    sent = b"".join(chunks(bodies, line, behind))
    body, has_ended, decoder = decoded(sent, size)
    assert (body, has_ended) == (b"".join(bodies), True)
    assert decoder.is_over
    assert decoded(sent[:-1], size)[1] is False


@given(bodies, st.integers(1, 50))
def test_a_valid_body_is_read_as_h11_reads_it(bodies: list[bytes], size: int) -> None:
    connection = h11.Connection(our_role=h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "host")]))
    connection.send(h11.EndOfMessage())
    sent = b"".join(chunks(bodies))
    connection.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
    read = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        read += event.data if isinstance(event, h11.Data) else b""
    assert decoded(sent, size)[0] == bytes(read)


def test_a_trailer_is_skipped_and_bytes_after_it_are_detected() -> None:
    sent = b"3\r\nabc\r\n000\r\nX-Checksum: 1\r\nY: 2\r\n\r\n"
    body, has_ended, decoder = decoded(sent)
    assert (body, has_ended, decoder.is_over) == (b"abc", True, True)
    assert not decoded(sent + b"HTTP/1.1 200 OK", size=len(sent))[2].is_over


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"0x3\r\nabc",
        b"3 4\r\nabc\r\n",
        b"3,\r\nabc\r\n",
        b"+3\r\nabc",
        b"f" * 21 + b"\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc3\r\n",
        b"3\r\nabc\r\r\n",
        b"3;" + b"x" * MAX_LINE_BYTES + b"\r\n",
        b"0\r\n" + b"X: y\r\n" * MAX_LINE_BYTES,
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_an_invalid_chunk_is_a_bad_response(sent: bytes, size: int) -> None:
    with pytest.raises(LinkFailed) as failed:
        decoded(sent, size)
    assert failed.value.outcome is Outcome.BAD_RESPONSE
