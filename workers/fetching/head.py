"""Response heads as servers send them, mended into heads that h11 accepts.

Invariant: `mend_head` is pure; its result is either refused by `LinkFailed` or is a head whose framing is unambiguous:
one Content-Length at most, and none beside chunked. What it changes is what browsers let pass.

Source: h11 follows RFC 9112 to the letter. Seen on the web and refused by it: lines without a colon, blanks before
the colon, control bytes in values, names with brackets, `ICY 200 OK`, HTTP/2.0 over HTTP/1, a length of `-1` or with a
unit behind it, lone line feeds before the status line. Rejected: loosening h11 itself, which has no switch for it.
"""

import re

from dataset.outcomes import Outcome
from workers.fetching.failure import LinkFailed

MAX_HEAD_BYTES = 64 << 10
"""Browsers stop at 256 KB; the longest policies and cookies of pictures' hosts stay under 32."""

END_OF_HEAD = re.compile(rb"\r?\n\r?\n")

_STATUS_LINE = re.compile(rb"(?:HTTP/(\d)(?:\.(\d))?|ICY)[ \t]+(\d{3})(?!\d)")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]+")
_LINE = re.compile(rb"\r?\n")


def mend_head(head: bytes) -> bytes:
    """Turn a head, without its empty line, into one that h11 parses, with its empty line.

    Raises: LinkFailed (bad_response) when it is not HTTP/1, or says two things about where the body ends.
    """
    first, *lines = _LINE.split(head.lstrip(b"\r\n"))
    status = _STATUS_LINE.match(first)
    if status is None:
        raise LinkFailed(Outcome.BAD_RESPONSE, "not HTTP")
    is_old = status[1] == b"1" and status[2] == b"0"
    fields = _fields(lines)
    mended = [b"HTTP/1.0 " if is_old else b"HTTP/1.1 ", status[3], b" \r\n"]
    for name, value in _framed(fields):
        mended += (name, b": ", value, b"\r\n")
    return b"".join((*mended, b"\r\n"))


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Split lines into names, in lower case, and values; what is no field is dropped, folded lines are joined."""
    fields: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and fields:
            name, value = fields[-1]
            fields[-1] = (name, value + b" " + _CONTROLS.sub(b"", line).strip())
            continue
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if colon and _NAME.match(name):
            fields.append((name, _CONTROLS.sub(b"", value).strip()))
    return fields


def _framed(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Leave one word on where the body ends."""
    codings = [
        coding.strip().lower() for name, value in fields if name == b"transfer-encoding" for coding in value.split(b",")
    ]
    codings = [coding for coding in codings if coding not in (b"", b"identity")]
    if codings and set(codings) != {b"chunked"}:
        raise LinkFailed(Outcome.BAD_RESPONSE, "a transfer coding other than chunked")
    lengths = {
        int(length)
        for name, value in fields
        if name == b"content-length"
        for length in value.replace(b" ", b"").split(b",")
        if length.isdigit() and len(length) < 20
    }
    kept = [(name, value) for name, value in fields if name not in (b"transfer-encoding", b"content-length")]
    if codings:
        return [*kept, (b"transfer-encoding", b"chunked")]
    if len(lengths) > 1:
        raise LinkFailed(Outcome.BAD_RESPONSE, "two different lengths")
    return [*kept, *((b"content-length", b"%d" % length) for length in lengths)]
