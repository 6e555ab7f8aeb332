"""Generates a WAT file of pages such as Common Crawl has: the input of bench_extract.

The layout is that of ia-web-commons (compact JSON, 'path' before the address, one gzip member a record, three records a
page of which only the response has links). What is on a page is assumed, by eye on pages of shops, blogs and news:

- two pages of a site in one file on average, with a long tail: a file holds pages of many thousand hosts;
- some 90 anchors with their texts, and 15 images: three of the site's frame, the same on all its pages, and the rest
  the page's own. Of these a bit under half have no alt or an empty one, and one in thirteen is a data: address;
- an address is absolute in 55 of 100 images, else from the root, relative, or without its scheme;
- a caption has 2 to 14 words, two thirds English, else of the site's language. REPEATED of the page's captions are the
  caption before: a product's further pictures, a gallery under one title, the portrait beside each comment. That share
  matters to whoever asks about equal texts once, so the benchmark reports what it measures without any repetition too.
"""

import gzip
import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

REPEATED = 0.2
"""COYO-700M has 12 % fewer texts than pairs, after all texts that came more than ten times were thrown out."""

WORDS = {
    "en": "the old house with a red door and small garden near river portrait of young woman in summer dress black "
    "leather shoes for men wooden table set modern kitchen design ideas how to make best chocolate cake recipe new "
    "stainless steel water bottle vintage poster view from mountain lake at sunset children playing football team",
    "de": "das alte Haus mit roter Tür und kleinem Garten am Fluss schöne Aussicht auf die Berge Herren Schuhe aus "
    "Leder schwarz Küche modern gestalten Rezept für Kuchen Bild von einer jungen Frau Straße im Winter günstig kaufen",
    "es": "la casa antigua con puerta roja y jardín pequeño cerca del río zapatos de cuero para hombre mesa de madera "
    "receta fácil de tarta vista desde montaña niños jugando en playa mejor precio nuevo vestido largo noche",
    "ru": "старый дом с красной дверью и маленьким садом возле реки портрет молодой женщины в летнем платье кожаные "
    "ботинки для мужчин купить недорого рецепт пирога вид на горы зимой",
    "ja": "赤いドアの古い家 小さな庭 川の近く 夏のドレスを着た女性 革の靴 木製テーブル 送料無料 人気商品 山の景色",
}
FOREIGN = [language for language in WORDS if language != "en"]
SHOPS = [
    "wp-content/uploads/2023/05",
    "cdn/shop/products",
    "media/catalog/product/cache/1",
    "images",
    "assets/img/gallery",
]


def write_wat(pages: int, *, seed: int = 7, repeated: float = REPEATED) -> bytes:
    """Return a WAT file of so many pages; `repeated` is the share of captions that repeat the one before."""
    chance = random.Random(seed)
    members = [_member("warcinfo", "", "Software-Info: ia-web-commons\r\nformat: WARC File Format 1.0\r\n")]
    written = 0
    while written < pages:
        site = _Site(chance, repeated)
        for _ in range(min(int(chance.paretovariate(1.6)), pages - written)):
            url = site.page_url()
            members += [_member("metadata", url, _json(envelope)) for envelope in _envelopes(site, url)]
            written += 1
    return b"".join(members)


class _Site:
    """A host with its language, its frame of navigation, and a supply of pictures."""

    def __init__(self, chance: random.Random, repeated: float) -> None:
        self._chance = chance
        self._repeated = repeated
        self.host = f"www.{chance.choice(['shop', 'news', 'blog', 'home'])}-{chance.getrandbits(32):x}.example"
        self._words = {name: words.split() for name, words in WORDS.items()}
        self._language = "en" if chance.random() < 0.6 else chance.choice(FOREIGN)
        self._frame = [self._anchor() for _ in range(chance.randint(20, 70))]
        self._logos = [
            {"path": "IMG@/src", "url": "/images/logo.svg", "alt": self.caption(2, 3)},
            {"path": "IMG@/src", "url": "/images/icon-search.png"},
            {"path": "IMG@/src", "url": f"https://stats.{self.host[4:]}/pixel.gif?id=7&t=1", "alt": ""},
        ]

    def page_url(self) -> str:
        words = "-".join(self._chance.choices(self._words["en"], k=4))
        return f"https://{self.host}/{words}/{self._chance.randint(1, 10**6)}.html"

    def caption(self, least: int = 2, most: int = 14) -> str:
        language = self._language if self._chance.random() < 0.9 else "en"
        words = self._chance.choices(self._words[language], k=self._chance.randint(least, most))
        if self._chance.random() < 0.3:
            words.append(f"{self._chance.choice('ABCDEFGH')}{self._chance.randint(10, 99999)}")
        caption = " ".join(words).capitalize()
        return caption.replace(" and ", " & ") if self._chance.random() < 0.1 else caption

    def links(self) -> Iterator[dict[str, str]]:
        """List a page's links in their order: the frame, then anchors and images in turn, then the frame's end."""
        yield from self._frame
        yield from self._logos
        caption = self.caption()
        for _ in range(int(self._chance.triangular(2, 30, 5))):
            yield from (self._anchor() for _ in range(self._chance.randint(1, 6)))
            caption = caption if self._chance.random() < self._repeated else self.caption()
            yield self._image(caption)

    def _anchor(self) -> dict[str, str]:
        path = "/".join(self._chance.choices(self._words["en"], k=3))
        return {"path": "A@/href", "url": f"/{path}/", "text": self.caption(1, 5)}

    def _image(self, caption: str) -> dict[str, str]:
        file = f"{self._chance.choice(SHOPS)}/{self._chance.getrandbits(48):x}_{self._chance.choice((300, 640))}.jpg"
        kind = self._chance.random()
        if kind < 0.55:
            url = f"https://cdn.{self.host[4:]}/{file}" + ("?v=1689&width=300" if kind < 0.2 else "")
        elif kind < 0.75:
            url = f"/{file}"
        elif kind < 0.85:
            url = f"{'../' if kind < 0.8 else ''}{file}"
        elif kind < 0.92:
            url = f"//i0.wp.com/{self.host}/{file}"
        else:
            url = "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4="
        image = {"path": "IMG@/src", "url": url}
        named = self._chance.random()
        return image if named < 0.2 else image | {"alt": "" if named < 0.4 else caption}


def _envelopes(site: _Site, url: str) -> Iterator[dict[str, Any]]:
    request = {"Method": "GET", "Path": url[len(site.host) + 8 :], "Version": "HTTP/1.1"}
    yield _wrapped(url, "request", {"HTTP-Request-Metadata": {"Request-Message": request, "Headers": _HEADERS}})
    head = {
        "Title": site.caption(),
        "Metas": [
            {"name": "description", "content": site.caption()},
            {"property": "og:title", "content": site.caption()},
        ],
        "Link": [{"path": "LINK@/href", "url": f"/css/{n}.css", "rel": "stylesheet"} for n in range(6)],
        "Scripts": [{"path": "SCRIPT@/src", "url": f"/js/{n}.js", "type": "text/javascript"} for n in range(8)],
    }
    response = {
        "Response-Message": {"Version": "HTTP/1.1", "Status": "200", "Reason": "OK"},
        "Headers": _HEADERS,
        "HTML-Metadata": {"Head": head, "Links": list(site.links())},
        "Entity-Length": "48213",
    }
    yield _wrapped(url, "response", {"HTTP-Response-Metadata": response})
    fetch = [{"Name": "fetchTimeMs", "Value": "143"}, {"Name": "charset-detected", "Value": "UTF-8"}]
    yield _wrapped(url, "metadata", {"WARC-Metadata-Metadata": {"Metadata-Records": fetch}})


_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Server": "nginx",
    "Cache-Control": "max-age=600",
    "Vary": "Accept",
}


def _wrapped(url: str, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    message = {"Actual-Content-Type": f"application/http; msgtype={kind}"} | payload
    header = {"WARC-Type": kind, "WARC-Date": _DATE, "WARC-Record-ID": _name(url, kind), "WARC-Target-URI": url}
    return {
        "Container": {"Filename": "CC-MAIN-00000.warc.gz", "Compressed": True, "Offset": "945"},
        "Envelope": {"Format": "WARC", "WARC-Header-Metadata": header, "Payload-Metadata": message},
    }


_DATE = "2024-05-18T01:02:03Z"


def _name(url: str, kind: str) -> str:
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, kind + url)}>"


def _json(envelope: dict[str, Any]) -> str:
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))


def _member(kind: str, target: str, block: str) -> bytes:
    body = block.encode()
    head = ["WARC/1.0", f"WARC-Type: {kind}", f"WARC-Target-URI: {target}", f"WARC-Date: {_DATE}"]
    head += [
        f"WARC-Record-ID: {_name(target, block)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return gzip.compress("\r\n".join([*head, "", ""]).encode() + body + b"\r\n\r\n", mtime=0)
