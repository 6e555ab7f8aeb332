"""Opt-out headers: whether a response reserves its picture.

Source: X-Robots-Tag (see dataset.candidates.opt_out), the header of the TDM Reservation Protocol, and Content-Usage of
the IETF's AI Preferences (draft-ietf-aipref-attach and -vocab), a dictionary such as `train-ai=n, search=y`.
"""

import re
from collections.abc import Iterable

from dataset.candidates.opt_out import reserves

WORDS = frozenset({"noai", "noimageai", "noml", "noindex", "noimageindex", "train-ai=n", "tdm-reservation=1"})
"""The default words: directives of X-Robots-Tag, entries of Content-Usage, and the TDM reservation."""

_BLANKS = re.compile(r"\s+")


def is_opted_out(headers: Iterable[tuple[bytes, bytes]], agent: str, words: frozenset[str]) -> bool:
    """Return whether any header (names in lower case) has one of `words` for `agent` or for all agents."""
    if not words:
        return False
    for name, value in headers:
        if name == b"x-robots-tag" and reserves(value.decode("latin-1"), {agent}, words):
            return True
        if name == b"content-usage" and not words.isdisjoint(_entries(value)):
            return True
        if name == b"tdm-reservation" and f"tdm-reservation={value.decode('latin-1').strip()}" in words:
            return True
    return False


def _entries(value: bytes) -> list[str]:
    """Return the entries of a dictionary (RFC 9651) without parameters."""
    entries = _BLANKS.sub("", value.decode("latin-1").lower()).split(",")
    return [entry.partition(";")[0] for entry in entries]
