"""Robots directives: does a line of a page or of a response's head reserve pictures from what we do?

Source: Google's description of X-Robots-Tag (an agent's name and a colon before directives address that agent alone,
to the end of the line or the next name), DeviantArt's noai and noimageai, and noml. `none` is noindex with nofollow.

Invariant: when in doubt the reservation counts. Dates have commas and colons, and names and directives that nobody has
heard of have colons, so a name counts as an agent's only if it looks like one and a known directive follows it.
"""

import re
from collections.abc import Collection

PAGE_WORDS = frozenset({"noai", "noimageai"})
"""What a page says to keep its pictures out of datasets."""

PAGE_AGENTS = frozenset({"*", "ccbot"})
"""Whom a page of Common Crawl speaks to: everybody, or the crawler that fetched it."""

_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_DIRECTIVES = _WITH_VALUE | {
    "all", "none", "index", "noindex", "follow", "nofollow", "archive", "noarchive", "nocache", "snippet", "nosnippet",
    "noodp", "noydir", "notranslate", "imageindex", "noimageindex", "nositelinkssearchbox", "indexifembedded",
    "noai", "noimageai", "noml",
}  # fmt: skip
_AGENT = re.compile(r"[a-z*][a-z0-9_.*-]*\Z")
_SEPARATOR = re.compile("[,;]")


def reserves(line: str, agents: Collection[str], words: Collection[str]) -> bool:
    """Return whether a line of X-Robots-Tag (in any case) says one of `words` to one of `agents`; `*` is everybody."""
    for_us = True
    for item in _SEPARATOR.split(line.lower()):
        name, colon, rest = (part.strip() for part in item.partition(":"))
        if colon and name not in _WITH_VALUE:
            if _AGENT.match(name) and _begins_with_directive(rest, words):
                for_us = name in agents or name == "*"
            name = rest
        if for_us and any(word in words or (word == "none" and "noindex" in words) for word in name.split()):
            return True
    return False


def _begins_with_directive(text: str, words: Collection[str]) -> bool:
    first = text.partition(":")[0].split()[:1]
    return bool(first) and (first[0] in _DIRECTIVES or first[0] in words)
