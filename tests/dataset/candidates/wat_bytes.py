"""Write the bytes of small WAT files for the tests of extract, as a whole and in separate parts."""

import gzip
import json
from collections.abc import Sequence
from typing import Any

Link = dict[str, Any]


def image(src: Any, alt: Any = None) -> Link:
    """An image's link; without an alt where that is None."""
    return {"path": "IMG@/src", "url": src} | ({} if alt is None else {"alt": alt})


def page_json(
    url: str,
    links: Sequence[Any],
    base: str | None = None,
    *,
    headers: Any = None,
    metas: Any = None,
) -> bytes:
    """The body of a response's record."""
    head = {"Title": "a page"} | ({} if base is None else {"Base": base}) | ({} if metas is None else {"Metas": metas})
    html = {"HTML-Metadata": {"Head": head, "Links": list(links)}}
    response = html if headers is None else {"Headers": headers} | html
    payload = {"Actual-Content-Type": "application/http; msgtype=response", "HTTP-Response-Metadata": response}
    header = {"WARC-Type": "response", "WARC-Target-URI": url}
    envelope = {"Payload-Metadata": payload, "Format": "WARC", "WARC-Header-Metadata": header}
    return json.dumps({"Container": {"Compressed": True}, "Envelope": envelope}).encode()


def record(body: bytes, *, kind: str = "metadata", length: object = None) -> bytes:
    """A record; `length` is a Content-Length that lies."""
    head = ["WARC/1.0", f"WARC-Type: {kind}", "WARC-Date: 2024-05-31T01:17:49Z", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(head).encode() + body + b"\r\n\r\n"


def member(body: bytes, *, kind: str = "metadata", length: object = None) -> bytes:
    """A record in a gzip member of its own, as Common Crawl writes it."""
    return gzip.compress(record(body, kind=kind, length=length), mtime=0)


WARCINFO = member(b"format: WARC File Format 1.0\r\n", kind="warcinfo")


def wat_bytes(*pages: bytes) -> bytes:
    """A WAT file of the records' bodies."""
    return WARCINFO + b"".join(member(page) for page in pages)
