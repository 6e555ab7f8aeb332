"""Hosts and URL prefixes that no worker may contact, in one normal form for the admin and the workers.

A host blocks itself and all its subdomains, on every port and by http and https. A URL prefix blocks that one host's
paths under it: `example.com/photos` is /photos and /photos/1.jpg, not /photos2; the scheme does not matter. Before
paths are compared, they are percent-decoded, their dots resolved and their slashes merged, so that no other spelling of
a blocked path gets through. If a server distinguishes these spellings, a little more than intended is blocked.

Hosts and paths are parsed by the URL standard, like the URLs that workers fetch, so that a host has one normal form on
both sides (tests compare it with `dataset.candidates.urls`).

Rejected: wildcards, because 100,000 such patterns cannot be looked up in a few steps.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

from ada_url import normalize_url

from tracker.errors import TrackerError

MAX_BYTES = 2_000
"""Longest pattern; longer ones do not fit into the column's index."""

_HOST = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})+|\[[0-9a-f:]+\])\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PARTS = re.compile(r"(?:([^:/\\]*):[/\\]{2,})?([^/\\]*)(.*)", re.DOTALL)
_PORT = re.compile(r":([0-9]*)\Z")


class PatternError(TrackerError):
    """The text is not a host or URL prefix that can be blocked."""


def read_pattern(text: str) -> str:
    """Return a host (`example.com`) or URL prefix (`https://example.com/photos`) in its normal form.

    Raises:
        PatternError: it is neither, with the remedy.
    """
    text = text.strip()
    if "*" in text:
        raise PatternError(f"{text!r} cannot be blocked: leave off the *, because a host blocks its subdomains too")
    if not text.isprintable() or " " in text:  # the URL standard ignores some of these characters
        raise PatternError(f"{text!r} cannot be blocked: give a host or a URL")
    if text.count(":") > 1 and not any(mark in text for mark in "[]/\\"):
        text = f"[{text}]"  # IPv6 in its normal form, which has no brackets
    parts = _PARTS.match(text)
    assert parts is not None
    scheme, authority, path = (part or "" for part in parts.groups())
    if scheme.lower() not in ("", *_DEFAULT_PORTS):
        raise PatternError(f"{text!r} cannot be blocked: give a host, or a prefix of http and https URLs")
    if "@" in authority or any(mark in text for mark in "?#"):
        raise PatternError(f"{text!r} cannot be blocked: leave off the user, the query and the fragment")
    host, port, path = _read(authority, path, text)
    if not path and not scheme:
        if port is not None:
            raise PatternError(
                f"{text!r} cannot be blocked: leave off the port, because a host is blocked on every port"
            )
        pattern = host.strip("[]")
    else:
        if port is not None and port != _DEFAULT_PORTS.get(scheme.lower()):
            host = f"{host}:{port}"
        pattern = f"{host}{_normal_path(path)}/"
    if len(pattern) > MAX_BYTES:
        raise PatternError(f"{text[:40]!r}… cannot be blocked: it is longer than {MAX_BYTES} bytes")
    return pattern


class Blocklist:
    """A set of patterns. A lookup takes as many steps as a host has labels and a path has segments."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._hosts: set[str] = set()
        self._paths: dict[str, set[str]] = {}  # by authority; '' covers all paths
        self.update(patterns, ())

    def __bool__(self) -> bool:
        return bool(self._hosts or self._paths)

    def update(self, blocked: Iterable[str], lifted: Iterable[str]) -> None:
        """Add and remove patterns, all in normal form."""
        for pattern in blocked:
            authority, slash, path = pattern.partition("/")
            if slash:
                self._paths.setdefault(authority, set()).add(_prefix(path))
            else:
                self._hosts.add(pattern)
        for pattern in lifted:
            authority, slash, path = pattern.partition("/")
            if slash and authority in self._paths:
                self._paths[authority].discard(_prefix(path))
                if not self._paths[authority]:
                    del self._paths[authority]
            elif not slash:
                self._hosts.discard(pattern)

    def covers_host(self, host: str) -> bool:
        """Return whether a host (ASCII, lower case) or a domain above it is blocked."""
        if host in self._hosts:
            return True
        dot = host.find(".")
        while dot >= 0 and self._hosts:
            if host[dot + 1 :] in self._hosts:
                return True
            dot = host.find(".", dot + 1)
        return False

    def covers(self, host: str, authority: str, url: str) -> bool:
        """Return whether a URL is blocked; `authority` is its host, with the port unless it is the scheme's default."""
        if self.covers_host(host):
            return True
        prefixes = self._paths.get(authority)
        if prefixes is None:
            return False
        path = _normal_path("/" + url.partition("://")[2].partition("?")[0].partition("/")[2])
        while path not in prefixes:
            if not path:
                return False
            path = path[: path.rindex("/")]
        return True


def _prefix(path: str) -> str:
    """Convert a pattern's path (`photos/`) into the form of a lookup (`/photos`)."""
    return f"/{path}".rstrip("/")


def _read(authority: str, path: str, text: str) -> tuple[str, int | None, str]:
    """Return the host with brackets around IPv6, the port if it is written out, and the path."""
    try:
        url = normalize_url(f"http://{authority}{path}")
    except ValueError as error:
        raise PatternError(f"{text!r} cannot be blocked: give a host or a URL") from error
    host, slash, rest = url.removeprefix("http://").partition("/")
    host = _PORT.sub("", host).removesuffix(".")
    if not _HOST.match(host):
        raise PatternError(f"{text!r} cannot be blocked: its host is neither an address nor a name like example.com")
    port = _PORT.search(authority)
    return host, int(port[1]) if port and port[1] else None, slash + rest if path else ""


def _normal_path(path: str) -> str:
    """Return a path without a slash at its end; '' means the whole host."""
    kept: list[bytes] = []
    for segment in unquote_to_bytes(path).split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return quote(b"".join(b"/" + segment for segment in kept), safe="/~!$&'()*+,;=:@")
