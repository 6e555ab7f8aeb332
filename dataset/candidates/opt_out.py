"""Decide whether a robots directive of a page or a response header reserves its pictures.

Source: Google's description of X-Robots-Tag (an agent's name and a colon before directives restrict them to that agent,
until the end of the line or the next name), DeviantArt's noai and noimageai, and noml. `none` means noindex and
nofollow.

Invariant: an unclear directive counts as a reservation. Dates contain commas and colons, and unknown names and
directives contain colons; so a name counts as an agent's only if it looks like one and a known directive follows it.
"""

import re
from collections.abc import Collection

PAGE_WORDS = frozenset({"noai", "noimageai"})
"""Directives by which a page keeps its pictures out of datasets."""

PAGE_AGENTS = frozenset({"*", "ccbot"})
"""Agents that a page of Common Crawl addresses: everybody, or the crawler that fetched it."""

_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_DIRECTIVES = _WITH_VALUE | {
    "all", "none", "index", "noindex", "follow", "nofollow", "archive", "noarchive", "nocache", "snippet", "nosnippet",
    "noodp", "noydir", "notranslate", "imageindex", "noimageindex", "nositelinkssearchbox", "indexifembedded",
    "noai", "noimageai", "noml",
}  # fmt: skip
_AGENT = re.compile(r"[a-z*][a-z0-9_.*-]*\Z")
_SEPARATOR = re.compile("[,;]")


def reserves(line: str, agents: Collection[str], words: Collection[str]) -> bool:
    """Return whether an X-Robots-Tag line (in any case) gives one of `words` to one of `agents`; `*` is everybody."""
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
