import gzip
import io
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.candidates import warc
from dataset.candidates.warc import WarcError
from dataset.candidates.wat import WatFile
from tests.dataset.candidates.wat_bytes import WARCINFO, image, member, page_json, record, wat_bytes

PAGES = [page_json(f"https://{n}.example/", [image(f"/{n}.jpg", f"picture {n}")]) for n in range(5)]
URLS = [f"https://{n}.example/" for n in range(5)]
MEMBERS = [member(page) for page in PAGES]


class Dribble(io.BytesIO):
    """A source that gives a few bytes at a time, as a socket may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(7 if size is None or size < 0 else min(size, 7))


def read(wat: bytes, source: Callable[[bytes], io.BytesIO] = io.BytesIO) -> tuple[list[str], int, bool]:
    """Return the pages' addresses, the number of corrupt records, and whether the file was cut."""
    pages = WatFile(source(wat))
    urls = [page.url for page in pages]
    return urls, pages.corrupt_records, pages.truncated


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(byte ^ 0x5A for byte in data[at : at + 20]) + data[at + 20 :]


def test_a_page_comes_with_its_base_and_its_images_in_order_as_they_stand() -> None:
    links = [
        {"path": "A@/href", "url": "/b.html", "text": "IMG@/src"},
        image(" /1.jpg\n", "eine &amp; zwei"),
        image("2.jpg"),
        {"path": "IMG@/data-src", "url": "/3.jpg", "alt": "lazy"},
        image("/4.jpg", ""),
    ]
    (page,) = WatFile(io.BytesIO(wat_bytes(page_json("https://a.example/", links, base="/img/"))))
    assert (page.url, page.base) == ("https://a.example/", "/img/")
    assert (page.images, page.images_without_alt) == ([(" /1.jpg\n", "eine &amp; zwei")], 2)


def test_links_of_odd_types_are_not_images() -> None:
    links: list[object] = [
        "IMG@/src",
        None,
        7,
        [],
        {},
        {"path": "IMG@/src"},
        image(5, "number"),
        image(None, "null"),
        image("a.jpg", 5),
    ]
    (page,) = WatFile(io.BytesIO(wat_bytes(page_json("https://a.example/", links))))
    assert (page.images, page.images_without_alt) == ([], 1)


ATTRIBUTE = st.text(
    st.sampled_from('a"\\\\/{}:,[] \n\u00e9\U0001f600') | st.characters(exclude_categories=["Cs"]), max_size=12
)
LINK = st.fixed_dictionaries(
    {"path": st.sampled_from(["IMG@/src", "A@/href", "IMG@/srcset"]), "url": ATTRIBUTE | st.none()},
    optional={
        "alt": ATTRIBUTE | st.none() | st.integers(0, 9),
        "title": ATTRIBUTE,
        "text": st.just('{"path":"IMG@/src"'),
    },
)


@given(st.lists(LINK.flatmap(lambda link: st.permutations([*link.items()]).map(dict) | st.just(link))), st.booleans())
def test_images_are_the_same_however_their_links_are_written(links: list[dict[str, object]], compact: bool) -> None:
    body = json.loads(page_json("https://a.example/", [*links, image("/last.jpg", "last")]))
    text = json.dumps(body, ensure_ascii=compact, separators=(",", ":") if compact else (", ", ": "))
    (page,) = WatFile(io.BytesIO(wat_bytes(text.encode())))
    images = [link for link in links if link["path"] == "IMG@/src" and isinstance(link["url"], str)]
    named = [(link["url"], link["alt"]) for link in images if isinstance(link.get("alt"), str) and link["alt"]]
    assert page.images == [*named, ("/last.jpg", "last")]
    assert page.images_without_alt == len(images) - len(named)


@pytest.mark.parametrize(
    "body",
    [
        {"Envelope": {"note": "IMG@/src"}},
        {"Envelope": "IMG@/src"},
        {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": "IMG@/src"}}}}},
        {"Envelope": {"Payload-Metadata": ["IMG@/src"]}},
        {"IMG@/src": None},
    ],
)
def test_a_record_without_links_is_neither_a_page_nor_corrupt(body: object) -> None:
    assert read(wat_bytes(json.dumps(body).encode(), PAGES[1])) == ([URLS[1]], 0, False)


@pytest.mark.parametrize(
    "body",
    [
        PAGES[0][:-40],
        PAGES[0][40:],
        PAGES[0].replace(b'"Format":', b'"Format"'),
        b"",
        b"{",
        b'{"IMG@/src": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["end missing", "start missing", "colon missing", "empty", "brace", "nested without end"],
)
def test_a_corrupt_record_is_counted_and_skipped(body: bytes) -> None:
    assert read(wat_bytes(PAGES[0], body, PAGES[1])) == (URLS[:2], 1, False)


def test_lone_surrogates_and_broken_utf8_cost_nothing_but_themselves() -> None:
    page = page_json("https://a.example/", [image("/a.jpg", "cat \ud83d here"), image("/b.jpg", "d\ud83d\ude00g")])
    assert b"\\ud83d here" in page
    (mended,) = WatFile(io.BytesIO(wat_bytes(page)))
    assert [alt for _, alt in mended.images] == ["cat  here", "d😀g"]
    (mended,) = WatFile(io.BytesIO(wat_bytes(PAGES[0].replace(b"picture", b"pict\xffre"))))
    assert [alt for _, alt in mended.images] == ["pict\ufffdre 0"]


LENGTH = len(PAGES[2])
DAMAGE = {
    "whole": (MEMBERS[2], [2], 0),
    "compressed data": (damaged(MEMBERS[2], 40), [], 1),
    "checksum": (MEMBERS[2][:-8] + bytes(8), [], 1),
    "no gzip at all": (b"<html>503</html>", [], 1),
    "no record inside": (gzip.compress(b"<html>503</html>"), [], 1),
    "cut short": (MEMBERS[2][:-60], [], 1),
    "length too small": (member(PAGES[2], length=LENGTH - 40), [], 1),
    "length too large": (member(PAGES[2], length=LENGTH + 40), [], 1),
    "length beyond the next record": (member(PAGES[2], length=LENGTH + 2000), [], 1),
    "length beyond the file": (member(PAGES[2], length=LENGTH + 10**6), [], 1),
    "length beyond measure": (member(PAGES[2], length=10**15), [], 1),
    "length no number": (member(PAGES[2], length="many"), [], 1),
    "header without end": (gzip.compress(b"WARC/1.0\r\nX: " + b"y" * 200_000), [], 1),
    "twice": (damaged(MEMBERS[2], 40) + damaged(MEMBERS[2], 50), [], 2),
}


@pytest.mark.parametrize("group_bytes", [1, len(PAGES[0]) + 1, warc.GROUP_BYTES])
@pytest.mark.parametrize("source", [io.BytesIO, Dribble])
@pytest.mark.parametrize(("hurt", "left", "corrupt"), DAMAGE.values(), ids=DAMAGE)
def test_reading_continues_after_damage(
    hurt: bytes,
    left: list[int],
    corrupt: int,
    source: Callable[[bytes], io.BytesIO],
    group_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warc, "GROUP_BYTES", group_bytes)
    wat = WARCINFO + MEMBERS[0] + MEMBERS[1] + hurt + MEMBERS[3] + MEMBERS[4]
    assert read(wat, source) == ([URLS[n] for n in (0, 1, *left, 3, 4)], corrupt, False)


@pytest.mark.parametrize("damage", [name for name, (hurt, *_) in DAMAGE.items() if hurt.startswith(warc.GZIP_MEMBER)])
def test_damage_at_the_beginning_of_a_file_is_counted_too(damage: str) -> None:
    hurt, left, corrupt = DAMAGE[damage]
    assert read(hurt + MEMBERS[3] + MEMBERS[4]) == ([URLS[n] for n in (*left, 3, 4)], corrupt, False)


def test_places_far_apart_in_a_long_file_are_each_passed_once() -> None:
    members = [member(page_json(f"https://{n}.example/", [image(f"/{n}.jpg", str(n) * 999)])) for n in range(3000)]
    for n in (0, 1000, 1001, 2999):
        members[n] = damaged(members[n], 60)
    wat = WARCINFO + b"".join(members)
    assert len(wat) > 8 * warc.READ_BYTES
    urls, corrupt, truncated = read(wat)
    assert urls == [f"https://{n}.example/" for n in range(3000) if n not in (0, 1000, 1001, 2999)]
    assert (corrupt, truncated) == (4, False)


@pytest.mark.parametrize("source", [io.BytesIO, Dribble])
@pytest.mark.parametrize(
    ("cut", "left"),
    [(4, 5), (60, 4), (len(MEMBERS[4]) - 1, 4), (len(MEMBERS[4]) - 20, 4), (len(MEMBERS[4]) + 60, 3)],
    ids=["in the checksum", "in the body", "one byte of the header", "in the header", "in the record before"],
)
def test_a_truncated_file_keeps_what_came_before_and_says_so(
    cut: int, left: int, source: Callable[[bytes], io.BytesIO]
) -> None:
    wat = wat_bytes(*PAGES)
    assert read(wat[:-cut], source) == (URLS[:left], 0, True)


def test_damage_before_the_cut_is_counted_apart_from_it() -> None:
    wat = WARCINFO + MEMBERS[0] + damaged(MEMBERS[1], 40) + MEMBERS[2] + MEMBERS[3][:-60]
    assert read(wat) == ([URLS[0], URLS[2]], 1, True)


def test_a_file_that_is_compressed_as_a_whole_or_not_at_all_is_read_too() -> None:
    plain = record(b"format: WARC\r\n", kind="warcinfo") + b"".join(map(record, PAGES))
    assert read(plain) == (URLS, 0, False)
    assert read(plain[:-60]) == (URLS[:4], 0, True)
    assert read(plain.replace(b'"Format": "WARC"', b'"Format" "WARC"', 1)) == (URLS[1:], 1, False)
    assert read(gzip.compress(plain)) == (URLS, 0, False)
    assert read(gzip.compress(plain)[:-60])[2]


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"<html>404</html>",
        gzip.compress(b""),
        gzip.compress(b"<html>404</html>"),
        MEMBERS[0][:50],
        b"\x1f\x8b\x08",
    ],
    ids=["empty", "html", "empty gzip", "zipped html", "cut in the first record", "cut in the first header"],
)
def test_a_file_without_records_is_not_a_wat_file(source: bytes) -> None:
    with pytest.raises(WarcError, match="holds no WARC record"):
        read(source)


@pytest.mark.parametrize("error", [ConnectionResetError, LookupError])
@pytest.mark.parametrize("reads", [0, 1, 2])
def test_trouble_with_the_source_is_not_taken_for_damage(error: type[Exception], reads: int) -> None:
    class Breaking(io.BytesIO):
        left = reads

        def read(self, size: int | None = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise error("the source broke")
            return super().read(50)

    with pytest.raises(error, match="the source broke"):
        list(WatFile(Breaking(wat_bytes(*PAGES))))


def test_memory_is_bounded_where_a_file_has_no_second_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc, "MAX_KEPT_BYTES", 4 * warc.READ_BYTES)
    tape = warc._Tape(io.BytesIO(bytes(64 * warc.READ_BYTES)))
    assert tape.find(b"none", 0) is None
    assert len(tape.since(0)) <= 4 * warc.READ_BYTES


@given(st.data())
def test_any_damage_costs_records_and_never_more_than_the_file(data: st.DataObject) -> None:
    wat = bytearray(wat_bytes(*PAGES))
    at = data.draw(st.integers(0, len(wat)))
    wat[at : at + data.draw(st.integers(0, 300))] = data.draw(st.binary(max_size=60))
    try:
        urls, corrupt, _ = read(bytes(wat))
    except WarcError:
        return
    assert [url for url in URLS if url in urls] == urls
    assert corrupt <= 6


@pytest.mark.parametrize(
    ("headers", "metas", "robots"),
    [
        ({"Server": "nginx"}, [{"name": "robots", "content": "index, follow"}], ()),
        ({}, [{"name": "Robots", "content": "index, NoAI"}], ("index, NoAI",)),
        ({}, [{"http-equiv": "X-Robots-Tag", "content": "noimageai"}], ("noimageai",)),
        ({}, [{"name": "ccbot", "content": "noai"}, {"name": "otherbot", "content": "noai"}], ("noai",)),
        ({}, [{"name": "description", "content": "noai"}, {"property": "robots", "content": "noai"}], ()),
        ({"x-robots-tag": "noai", "X-Robots-Tag": "all"}, None, ("noai", "all")),
        ({"X-ROBOTS-TAG": ["otherbot: all", "noai", 7]}, [], ("otherbot: all", "noai")),
        ({"Set-Cookie": "noai=1"}, [], ()),
        (["noai"], {"noai": 1}, ()),
        ("noai", [None, "noai", {"name": 1, "content": "noai"}, {"name": "robots", "content": ["noai"]}], ()),
    ],
)
def test_a_page_comes_with_its_robots_rules_where_they_may_reserve_it(
    headers: object, metas: object, robots: tuple[str, ...]
) -> None:
    body = page_json("http://a.example/", [image("a.jpg", "an image")], headers=headers, metas=metas)
    (page,) = WatFile(io.BytesIO(wat_bytes(body)))
    assert page.robots == robots
