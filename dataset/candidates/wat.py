"""Read the pages of a WAT file and their images, as the pages wrote them.

Invariant: a page comes with its URL, its `<base>`, every `IMG@/src` that has an alt, in order, and the number of images
without one; nothing is judged or changed here. A record that is not JSON is counted as corrupt and skipped.

Source: the WAT format of ia-web-commons, checked with Common Crawl's files of 2019 to 2024. Only HTML responses have
links; the other two of three records (request, fetch) are skipped by a search for the bytes 'IMG@/src', without
parsing.

simdjson parses every record, which proves that it is valid JSON. Converting all links to Python objects would cost more
than everything else, so one regular expression finds the images in the text. That is safe in valid JSON: a string
contains no bare quote, so '{"path":"IMG@/src","url":"' opens that object and that value, and the value ends at the next
unescaped quote. A simpler pattern, which takes a third less time, is tried first; it fails on strings with escaped
quotes. If an image is not written as Common Crawl writes it (compact; path first, then url, alt and the rest, all
strings), the page's links are walked one by one.

Records come in groups (see `warc`): all records of a group are parsed, then all are searched, so that each step keeps
its code and data in the processor's caches.

Rejected: the regular expression without the first parse, since it would have to be trusted as a JSON parser; splitting
records at the images' paths; parsing cut-out images with simdjson; all links as dictionaries. All are slower, see
docs/performance.md.
"""

import json
import re
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, BinaryIO, NamedTuple

import simdjson

from dataset import strict_json
from dataset.candidates.warc import WarcRecords

IMAGE_PATH = "IMG@/src"
_IMAGE_BYTES = IMAGE_PATH.encode()  # without quotes: they occur everywhere and double the search time
_STRING = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_QUICK_STRING = rb'"([^"]*)(?<!\\)"'  # fails on strings that contain a quote or end with a backslash


def _images_with(string: bytes) -> re.Pattern[bytes]:
    """Return a pattern for every place of the path; its third group is the closing brace of an image written as
    expected.
    """
    return re.compile(
        rb'IMG@/src(?:(?<=\{"path":"IMG@/src)","url":%b(?:,"alt":%b)?(?:,"(?!path"|url"|alt")[a-z-]+":"[^"\\]*")*(\}))?'
        % (string, string)
    )


_IMAGES, _QUICK_IMAGES = _images_with(_STRING), _images_with(_QUICK_STRING)
_brace = itemgetter(2)

_ADDRESS = "/Envelope/WARC-Header-Metadata/WARC-Target-URI"
_ROBOTS_METAS = frozenset({"robots", "ccbot", "x-robots-tag"})  # CCBot fetched the page
_RESPONSE = "/Envelope/Payload-Metadata/HTTP-Response-Metadata"


Image = tuple[str, str]
"""The src and the alt of an `<img>` as they are in the WAT file; the alt is not empty."""


class Page(NamedTuple):
    """A page with at least one image; `base` is the href of its `<base>`.

    `robots` are the page's X-Robots-Tag lines and robots `<meta>` contents; empty if none can contain `noai` or
    `noimageai`.
    """

    url: str
    base: str | None
    robots: tuple[str, ...]
    images: list[Image]
    images_without_alt: int


class _Opened(NamedTuple):
    """A parsed record with links; all fields are empty if it has none."""

    url: str
    base: str | None
    robots: tuple[str, ...]
    body: bytes


_NO_LINKS = _Opened("", None, (), b"")


class WatFile:
    """The pages of one WAT file, to be iterated over once, and what was found damaged on the way.

    `corrupt_records` were skipped; `truncated`, valid after the iteration, means that the file ends early.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._records = WarcRecords(source)
        self._parser = simdjson.Parser()

    @property
    def corrupt_records(self) -> int:
        return self._records.damaged

    @property
    def truncated(self) -> bool:
        return self._records.truncated

    def __iter__(self) -> Iterator[Page]:
        """Yield the pages that have images.

        Raises: WarcError when the file is not a WARC file; whatever the source raises.
        """
        for bodies in self._records:
            yield from self._pages(self._open_all(bodies))

    def _open_all(self, bodies: list[bytes]) -> list[_Opened]:
        """Parse the records of a group, except those that cannot have images."""
        opened: list[_Opened] = []
        for number, body in enumerate(bodies):
            if body.rfind(_IMAGE_BYTES) < 0 and _looks_whole(body):  # from the end, because links come last in a record
                continue
            record = self._open(body)
            if record is not None:
                opened.append(record)
            elif self._records.distrust(number):
                break
        return opened

    def _open(self, body: bytes) -> _Opened | None:
        """Parse a record and return its URLs and body; None when it is corrupt."""
        try:
            return _opened(self._parser.parse(body), body)
        except (ValueError, RuntimeError):  # RuntimeError: nested too deeply, for simdjson and for json
            pass
        try:
            mended = _mended(body)
            return _opened(self._parser.parse(mended), mended)
        except (ValueError, RuntimeError):
            return None

    def _pages(self, records: list[_Opened]) -> list[Page]:
        """Find the images of records, and leave out pages without images."""
        found = [(record, _images_found(record.body) or self._images_walked(record.body)) for record in records]
        return [
            Page(record.url, record.base, record.robots, images, without_alt)
            for record, (images, without_alt) in found
            if images or without_alt
        ]

    def _images_walked(self, body: bytes) -> tuple[list[Image], int]:
        return _images_walked(_at(self._parser.parse(body), f"{_RESPONSE}/HTML-Metadata/Links"))


def _opened(document: Any, body: bytes) -> _Opened:
    """Return the URLs and body of a parsed record.

    Raises: ValueError when the record is JSON but not an object.
    """
    if not isinstance(document, simdjson.Object):
        raise ValueError("a record is a JSON object")  # noqa: TRY004 — corrupt data, not a wrong call
    url, response = _at(document, _ADDRESS), _at(document, _RESPONSE)
    html: Any = response.get("HTML-Metadata") if isinstance(response, simdjson.Object) else None
    links = html.get("Links") if isinstance(html, simdjson.Object) else None
    if not isinstance(url, str) or not isinstance(links, simdjson.Array):
        return _NO_LINKS
    head = html.get("Head")
    head = head if isinstance(head, simdjson.Object) else None
    return _Opened(url, _base_of(head), _robots_of(response, head), body)


def _base_of(head: Any) -> str | None:
    """Return the href of `<base>`. Listing a head's keys costs simdjson 0.5 µs, a missing key 4, a search 9."""
    base = head["Base"] if head is not None and "Base" in list(head) else None
    return base if isinstance(base, str) else None


def _robots_of(response: Any, head: Any) -> tuple[str, ...]:
    """Return the robots lines of a page that may reserve its images."""
    headers: Any = response.get("Headers")
    metas: Any = head.get("Metas") if head is not None else None
    has_headers, has_metas = isinstance(headers, simdjson.Object), isinstance(metas, simdjson.Array)
    text = ((headers.mini if has_headers else b"") + (metas.mini if has_metas else b"")).lower()
    if b"noai" not in text and b"noimageai" not in text:  # nearly all pages
        return ()
    lines: list[str] = []
    for name, value in headers.items() if has_headers else ():
        if name.lower() == "x-robots-tag":  # a list if the header was sent more than once
            lines += [line for line in (value if isinstance(value, list) else [value]) if isinstance(line, str)]
    for meta in metas if has_metas else ():
        if isinstance(meta, simdjson.Object) and (line := _robots_line(meta)) is not None:
            lines.append(line)
    return tuple(lines)


def _robots_line(meta: Any) -> str | None:
    name, content = meta.get("name") or meta.get("http-equiv"), meta.get("content")
    if not isinstance(name, str) or not isinstance(content, str):
        return None
    return content if name.strip().lower() in _ROBOTS_METAS else None


def _images_found(body: bytes) -> tuple[list[Image], int] | None:
    """Return a valid record's images with an alt, and the number of those without; None if an image is written
    unexpectedly.
    """
    found = _QUICK_IMAGES.findall(body)
    if not all(map(_brace, found)):
        found = _IMAGES.findall(body)
        if not all(map(_brace, found)):
            return None
    strings = [string for src, alt, _ in found if alt for string in (src, alt)]
    texts = _decoded(strings)
    images = list(zip(texts[::2], texts[1::2], strict=True))
    return images, len(found) - len(images)


def _decoded(strings: list[bytes]) -> list[str]:
    """Decode the contents of JSON strings together: in valid JSON they contain no line break."""
    joined = b"\n".join(strings)
    if b"\\" in joined:
        return [json.loads(b'"%b"' % string) for string in strings]
    return joined.decode().split("\n") if strings else []


def _images_walked(links: Any) -> tuple[list[Image], int]:
    """Return the same as `_images_found`, by looking at each link."""
    images, without_alt = [], 0
    for link in links:
        try:
            if link["path"] != IMAGE_PATH or not isinstance(link["url"], str):
                continue
        except (KeyError, TypeError):
            continue
        alt = link.get("alt")
        if isinstance(alt, str) and alt:
            images.append((link["url"], alt))
        else:
            without_alt += 1
    return images, without_alt


def _looks_whole(body: bytes) -> bool:
    """Return whether a body starts and ends like a JSON object; this is the only check of records without images."""
    return body[:1] == b"{" and body.rstrip()[-1:] == b"}"


def _mended(body: bytes) -> bytes:
    """Rewrite JSON that Java accepts and simdjson refuses: lone surrogates are removed, bad UTF-8 becomes U+FFFD.

    Raises: ValueError when it is not JSON, RecursionError when it is nested too deeply.
    """
    document = json.loads(body.decode("utf-8", "replace"), strict=False)
    return strict_json.dumps(document, ensure_ascii=False).encode("utf-8", "ignore")


def _at(document: Any, pointer: str) -> Any:
    try:
        return document.at_pointer(pointer)
    except (KeyError, ValueError, TypeError, IndexError):
        return None
