"""Response heads as servers send them, repaired so that h11 accepts them.

Invariant: no I/O. The framing of a repaired head is unambiguous: at most one Content-Length, and not together with
chunked. Only faults that browsers tolerate are repaired.

Source: h11 follows RFC 9112 to the letter. Seen on the web but refused by h11: lines without a colon, blanks before the
colon, control bytes in values, names with brackets, `ICY 200 OK`, HTTP/2.0 over HTTP/1, a length of `-1` or with a
unit, bare line feeds before the status line. Rejected: a lenient h11, which has no such option.
"""

import re
from dataclasses import dataclass

from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed

MAX_HEAD_BYTES = 64 << 10
"""Browsers stop at 256 KB; the longest policies and cookies of picture hosts stay under 32 KB."""

END_OF_HEAD = re.compile(rb"\r?\n\r?\n")

BODYLESS = frozenset({204, 304})
"""Statuses without a body, whatever length they announce."""

_STATUS_LINE = re.compile(rb"(?:HTTP/(\d)(?:\.(\d))?|ICY)[ \t]+(\d{3})(?!\d)")
_FIELD = re.compile(rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:([^\x00-\x08\x0a-\x1f\x7f]*)\r?$", re.MULTILINE)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]+")
_LINE = re.compile(rb"\r?\n")
_FRAMING = frozenset({b"transfer-encoding", b"content-length"})


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of a response; field names in lower case, values without control bytes."""

    status: int
    is_old: bool
    """Whether the version is HTTP/1.0."""
    fields: list[tuple[bytes, bytes]]
    length: int | None
    """The length of the body if only Content-Length announces it, otherwise None."""

    @property
    def is_chunked(self) -> bool:
        """Whether the body is in chunks."""
        return self.status not in BODYLESS and (b"transfer-encoding", b"chunked") in self.fields

    @property
    def ends_connection(self) -> bool:
        """Whether the connection cannot be reused."""
        return self.is_old or any(name == b"connection" and b"close" in value.lower() for name, value in self.fields)

    def to_bytes(self) -> bytes:
        """Return the head as bytes that h11 accepts, with the empty line."""
        lines = [b"HTTP/1.0 " if self.is_old else b"HTTP/1.1 ", b"%03d" % self.status, b" \r\n"]
        for name, value in self.fields:
            lines += (name, b": ", value, b"\r\n")
        return b"".join((*lines, b"\r\n"))


def repair_head(head: bytes) -> ResponseHead:
    """Parse and repair a head, given without its empty line.

    Raises: LinkFailed (bad_response) when it is not HTTP/1, or contradicts itself about the end of the body.
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
    """Split lines into lower-case names and values; join folded lines and drop invalid ones."""
    fields: list[tuple[bytes, bytes]] = _FIELD.findall(lines)
    if len(fields) == lines.count(b"\n") + 1:  # nothing to repair
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
    """Reduce the framing fields to one; return all fields, and the length if that is the one."""
    words = [field for field in fields if field[0] in _FRAMING]
    if len(words) == 1 and words[0][0] == b"content-length" and words[0][1].isdigit() and len(words[0][1]) < 20:
        return fields, int(words[0][1])  # nothing to repair
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
