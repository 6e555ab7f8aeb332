"""Response heads as servers send them, mended into heads that h11 accepts.

Invariant: `mend_head` is pure; its result is either refused by `LinkFailed` or is a head whose framing is unambiguous:
one Content-Length at most, and none beside chunked. What it changes is what browsers let pass.

Source: h11 follows RFC 9112 to the letter. Seen on the web and refused by it: lines without a colon, blanks before
the colon, control bytes in values, names with brackets, `ICY 200 OK`, HTTP/2.0 over HTTP/1, a length of `-1` or with a
unit behind it, lone line feeds before the status line. Rejected: loosening h11 itself, which has no switch for it.
"""

import re
from dataclasses import dataclass

from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed

MAX_HEAD_BYTES = 64 << 10
"""Browsers stop at 256 KB; the longest policies and cookies of pictures' hosts stay under 32."""

END_OF_HEAD = re.compile(rb"\r?\n\r?\n")

BODYLESS = frozenset({204, 304})
"""Have no body, whatever length they announce."""

_STATUS_LINE = re.compile(rb"(?:HTTP/(\d)(?:\.(\d))?|ICY)[ \t]+(\d{3})(?!\d)")
_FIELD = re.compile(rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:([^\x00-\x08\x0a-\x1f\x7f]*)\r?$", re.MULTILINE)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]+")
_LINE = re.compile(rb"\r?\n")
_FRAMING = frozenset({b"transfer-encoding", b"content-length"})


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response's head; names of fields in lower case, their values without control bytes."""

    status: int
    is_old: bool
    """HTTP/1.0."""
    fields: list[tuple[bytes, bytes]]
    length: int | None
    """Of the body, announced by Content-Length and by nothing else; None where the body ends in another way."""

    @property
    def is_chunked(self) -> bool:
        """Whether there is a body, in chunks."""
        return self.status not in BODYLESS and (b"transfer-encoding", b"chunked") in self.fields

    @property
    def ends_connection(self) -> bool:
        """Say whether no other response can follow on the connection."""
        return self.is_old or any(name == b"connection" and b"close" in value.lower() for name, value in self.fields)

    def to_bytes(self) -> bytes:
        """Write it so that h11 parses it, with its empty line."""
        mended = [b"HTTP/1.0 " if self.is_old else b"HTTP/1.1 ", b"%03d" % self.status, b" \r\n"]
        for name, value in self.fields:
            mended += (name, b": ", value, b"\r\n")
        return b"".join((*mended, b"\r\n"))


def mend_head(head: bytes) -> ResponseHead:
    """Read a head, without its empty line.

    Raises: LinkFailed (bad_response) when it is not HTTP/1, or says two things about where the body ends.
    """
    first, _, lines = head.lstrip(b"\r\n").partition(b"\n")
    found = _STATUS_LINE.match(first)
    if found is None:
        raise LinkFailed(Outcome.BAD_RESPONSE, "not HTTP")
    fields, length = _framed(_fields(lines))
    status = int(found[3])
    has_body = status >= 200 and status not in BODYLESS
    return ResponseHead(status, found[1] == b"1" and found[2] == b"0", fields, length if has_body else None)


def _fields(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Split lines into names, in lower case, and values; what is no field is dropped, folded lines are joined."""
    fields: list[tuple[bytes, bytes]] = _FIELD.findall(lines)
    if len(fields) == lines.count(b"\n") + 1:  # nothing to mend
        return [(name.lower(), value.strip()) for name, value in fields]
    fields = []
    for line in _LINE.split(lines):
        if line[:1] in (b" ", b"\t") and fields:
            name, value = fields[-1]
            fields[-1] = (name, value + b" " + _CONTROLS.sub(b"", line).strip())
            continue
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if colon and _NAME.match(name):
            fields.append((name, _CONTROLS.sub(b"", value).strip()))
    return fields


def _framed(fields: list[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], int | None]:
    """Leave one word on where the body ends; the length, if that is the word."""
    words = [field for field in fields if field[0] in _FRAMING]
    if len(words) == 1 and words[0][0] == b"content-length" and words[0][1].isdigit() and len(words[0][1]) < 20:
        return fields, int(words[0][1])  # nothing to mend
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
        return [*kept, (b"transfer-encoding", b"chunked")], None
    if len(lengths) > 1:
        raise LinkFailed(Outcome.BAD_RESPONSE, "two different lengths")
    if not lengths:
        return kept, None
    length = lengths.pop()
    return [*kept, (b"content-length", b"%d" % length)], length
