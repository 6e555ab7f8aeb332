"""Opt-out headers: does a response reserve its picture from what we do?

Source: Google's description of X-Robots-Tag (an agent's name and a colon before directives address that agent alone,
to the end of the line or the next name), DeviantArt's noai and noimageai, and the TDM Reservation Protocol's header.
`none` is defined as noindex with nofollow.
"""

from collections.abc import Iterable

_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives that have a colon of their own; what stands before other colons is an agent's name."""


def is_opted_out(headers: Iterable[tuple[bytes, bytes]], agent: str, directives: frozenset[str]) -> bool:
    """Say whether any header (names in lower case) tells `agent` or all to keep off; without directives none does."""
    if not directives:
        return False
    for name, value in headers:
        if name == b"tdm-reservation" and value.strip() == b"1":
            return True
        if name == b"x-robots-tag" and _forbids(value.decode("latin-1").lower(), agent, directives):
            return True
    return False


def _forbids(line: str, agent: str, directives: frozenset[str]) -> bool:
    for_us = True
    for item in line.split(","):
        name, colon, rest = (part.strip() for part in item.partition(":"))
        if colon and name not in _WITH_VALUE:
            for_us = name in ("*", agent)
            name = rest
        if for_us and (name in directives or (name == "none" and "noindex" in directives)):
            return True
    return False
