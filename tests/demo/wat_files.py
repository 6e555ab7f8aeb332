"""Write WAT files with the layout of Common Crawl's from the mini crawl's pages.

One gzip member a record: a warcinfo first, then for each page the metadata of its request, its response and its fetch,
in the field order that ia-web-commons writes. Source: the WAT files of 2019 to 2024. Only responses carry links.
"""

import gzip
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

DATE = "2024-05-18T01:02:03Z"
FETCHED = "CC-MAIN-20240517233122-20240518023122-00000.warc.gz"
NAMESPACE = uuid.UUID("b4fe2291-40c2-4492-b4ab-7a7776be6c73")


@dataclass(frozen=True, slots=True)
class ImageTag:
    """An <img> as written: `alt` None is a tag without one."""

    src: str
    alt: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was fetched; `base` is the href of its <base>."""

    url: str
    title: str
    images: tuple[ImageTag, ...]
    base: str | None = None


def wat_bytes(name: str, pages: Sequence[Page], *, broken_after: int | None = None, cut_short: bool = False) -> bytes:
    """Write one WAT file.

    `broken_after` puts a record whose JSON ends in the middle behind that many pages. `cut_short` ends the file inside
    the compressed record of one page more, which holds no image.
    """
    members = [
        _member("warcinfo", None, f"Software-Info: mini-crawl\r\nformat: WARC File Format 1.0\r\nfile: {name}\r\n")
    ]
    for number, page in enumerate(pages):
        if number == broken_after:
            members.append(_member("metadata", page.url, _json(_response(page))[:400]))
        members.extend(_member("metadata", page.url, _json(envelope)) for envelope in _envelopes(page))
    if cut_short:
        last = _member("metadata", "http://127.0.0.1/", _json(_response(Page("http://127.0.0.1/", "The end", ()))))
        members.append(last[: len(last) // 2])
    return b"".join(members)


def _member(kind: str, target: str | None, block: str) -> bytes:
    body = block.encode("utf-8")
    head = ["WARC/1.0", f"WARC-Type: {kind}", *([f"WARC-Target-URI: {target}"] if target else []), f"WARC-Date: {DATE}"]
    head += [f"WARC-Record-ID: {_record_id(target or kind, block)}"]
    head += [f"Content-Type: application/{'json' if target else 'warc-fields'}", f"Content-Length: {len(body)}", "", ""]
    return gzip.compress("\r\n".join(head).encode("utf-8") + body + b"\r\n\r\n", mtime=0)


def _record_id(target: str, part: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(NAMESPACE, target + part)}>"


def _json(envelope: dict[str, Any]) -> str:
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))


def _envelopes(page: Page) -> Iterator[dict[str, Any]]:
    yield _wrapped(page, "request", _request(page))
    yield _response(page)
    fetch = [{"Name": "fetchTimeMs", "Value": "143"}, {"Name": "charset-detected", "Value": "UTF-8"}]
    payload = {
        "Actual-Content-Type": "application/metadata-fields",
        "WARC-Metadata-Metadata": {"Metadata-Records": fetch},
    }
    yield _wrapped(page, "metadata", payload)


def _request(page: Page) -> dict[str, Any]:
    message = {"Method": "GET", "Path": "/" + page.url.split("/", 3)[3], "Version": "HTTP/1.1"}
    headers = {"User-Agent": "CCBot/2.0 (https://commoncrawl.org/faq/)", "Accept-Encoding": "gzip"}
    return {
        "Actual-Content-Type": "application/http; msgtype=request",
        "HTTP-Request-Metadata": {"Request-Message": message, "Headers": headers, "Entity-Length": "0"},
    }


def _response(page: Page) -> dict[str, Any]:
    payload = {
        "Actual-Content-Type": "application/http; msgtype=response",
        "HTTP-Response-Metadata": {
            "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
            "Headers-Length": "227",
            "Headers": {"Content-Type": "text/html; charset=utf-8", "Server": "mini-crawl"},
            "HTML-Metadata": {"Head": _head(page), "Links": list(_links(page))},
            "Entity-Length": "4096",
        },
    }
    return _wrapped(page, "response", payload)


def _head(page: Page) -> dict[str, Any]:
    head: dict[str, Any] = {"Metas": [{"name": "viewport", "content": "width=device-width"}]}
    if page.base is not None:
        head["Base"] = page.base
    head["Title"] = page.title
    head["Link"] = [{"path": "LINK@/href", "url": "/style.css", "rel": "stylesheet", "type": "text/css"}]
    return head


def _links(page: Page) -> Iterator[dict[str, str]]:
    """List the page's tags: navigation, its images with a link behind each, and the pixel that counts visitors."""
    yield {"path": "A@/href", "url": "#main-content", "text": "Skip to main content"}
    yield {"path": "IMG@/src", "url": "/logo.gif"}
    for image in page.images:
        yield {"path": "A@/href", "url": image.src, "text": "enlarge"}
        alt = {} if image.alt is None else {"alt": image.alt}
        yield {"path": "IMG@/src", "url": image.src, **alt}
    yield {"path": "IMG@/src", "url": "https://127.0.0.1/pixel.gif", "alt": ""}


def _wrapped(page: Page, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Put a payload into its envelope, as ia-web-commons nests it."""
    header = {
        "WARC-Type": kind,
        "WARC-Date": DATE,
        "WARC-Record-ID": _record_id(page.url, kind),
        "WARC-Target-URI": page.url,
    }
    return {
        "Container": {"Filename": FETCHED, "Compressed": True, "Offset": "945"},
        "Envelope": {"Payload-Metadata": payload, "Format": "WARC", "WARC-Header-Metadata": header},
    }
