"""What nobody of the fleet may contact: hosts and URL prefixes, in one normal form for who blocks and who asks.

A host blocks itself and all its subdomains, on every port and by http and https. A URL prefix blocks that one host's
paths under it: `example.com/photos` is /photos and /photos/1.jpg, not /photos2; the scheme does not matter. Paths are
compared with percent-coding undone, dots resolved and slashes merged, so that no other spelling of a blocked path gets
through; a server to which these spellings differ loses a little more than was meant.

Rejected: patterns with wildcards, of which 100,000 cannot be looked up in a few steps.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import quote, unquote_to_bytes, urlsplit

import idna

from tracker.errors import TrackerError

MAX_BYTES = 2_000
"""Of a pattern; its column's index takes no more."""

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})+\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443, "": None}


class PatternError(TrackerError):
    """A pattern that blocks nothing, or more than anybody can mean."""


def read_pattern(text: str) -> str:
    """Return a host (`example.com`) or URL prefix (`https://example.com/photos`) in its normal form.

    Raises:
        PatternError: it is neither.
    """
    text = text.strip()
    if "*" in text:
        raise PatternError(f"{text!r} cannot be blocked: leave off the *, a host blocks its subdomains too")
    if not text.isprintable() or " " in text:  # urlsplit would pass over some of them
        raise PatternError(f"{text!r} cannot be blocked: it is no host and no URL")
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise PatternError(f"{text!r} cannot be blocked: it is no host and no URL") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise PatternError(f"{text!r} cannot be blocked: give a host, or a prefix of http and https URLs")
    if "@" in parts.netloc or parts.query or parts.fragment or text.endswith(("?", "#")):
        raise PatternError(f"{text!r} cannot be blocked: leave off the user, the query and the fragment")
    host = _read_host(host, text)
    if not parts.path and not parts.scheme:
        if port is not None:
            raise PatternError(f"{text!r} cannot be blocked: a host is blocked on every port, leave the port off")
        pattern = host
    else:
        authority = f"[{host}]" if ":" in host else host
        if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
            authority = f"{authority}:{port}"
        pattern = f"{authority}{_normal_path(parts.path)}/"
    if len(pattern) > MAX_BYTES:
        raise PatternError(f"{text[:40]!r}… cannot be blocked: it is longer than {MAX_BYTES} bytes")
    return pattern


class Blocklist:
    """The patterns a worker goes by; looked up in as many steps as a host has labels and a path has segments."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._hosts: set[str] = set()
        self._paths: dict[str, set[str]] = {}  # by authority; '' is all of them
        self.update(patterns, ())

    def __bool__(self) -> bool:
        return bool(self._hosts or self._paths)

    def update(self, blocked: Iterable[str], lifted: Iterable[str]) -> None:
        """Add and drop patterns, all in normal form."""
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
        """Say whether a host, as ASCII in lower case, or a domain above it is blocked."""
        if host in self._hosts:
            return True
        dot = host.find(".")
        while dot >= 0 and self._hosts:
            if host[dot + 1 :] in self._hosts:
                return True
            dot = host.find(".", dot + 1)
        return False

    def covers(self, host: str, authority: str, url: str) -> bool:
        """Say whether a URL is blocked; `authority` is its host, with the port unless that is the scheme's own."""
        if self.covers_host(host):
            return True
        prefixes = self._paths.get(authority)
        if prefixes is None:
            return False
        path = _normal_path(urlsplit(url).path)
        while path not in prefixes:
            if not path:
                return False
            path = path[: path.rindex("/")]
        return True


def _prefix(path: str) -> str:
    """A path as patterns have it behind the host's slash (`photos/`), as prefixes are looked up (`/photos`)."""
    return f"/{path}".rstrip("/")


def _read_host(host: str, text: str) -> str:
    host = host.removesuffix(".")
    try:
        if "%" not in host:  # a zone is of one machine only
            return ip_address(host).compressed
    except ValueError:
        pass
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except (idna.IDNAError, ValueError) as error:
            raise PatternError(f"{text!r} cannot be blocked: the host's name has no ASCII form") from error
    if not _NAME.match(host):
        raise PatternError(f"{text!r} cannot be blocked: its host is no address and no name like example.com")
    return host


def _normal_path(path: str) -> str:
    """A path without a slash at its end, '' for all of a host."""
    kept: list[bytes] = []
    for segment in unquote_to_bytes(path).split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return quote(b"".join(b"/" + segment for segment in kept), safe="/~!$&'()*+,;=:@")
