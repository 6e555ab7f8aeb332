"""The mini crawl is as planned; otherwise the demo's checks would prove nothing."""

import html
import io
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import gcld3
import numpy as np
import pytest
from PIL import Image

from tests.demo.crawl import FULL_IMAGES, Crawl, list_plants, read_expected
from tests.demo.painting import Order, paint
from tests.demo.pictures import random_scene
from tests.demo.plants import FATES, NAMES, Pair, Plant
from tests.demo.small_crawl import build_small_crawl


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    return build_small_crawl(tmp_path_factory.mktemp("crawl") / "it")


def tags(path: Path) -> list[tuple[str, str, str]]:
    """Read (absolute URL, URL as written, alt) of every image with an alt in a WAT file, cut short or not."""
    data, text = path.read_bytes(), b""
    while data:
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        piece = member.decompress(data)
        text += piece if member.eof else b""
        data = member.unused_data
    found = []
    for record in text.decode().split("WARC/1.0\r\n")[1:]:
        body = record.split("\r\n\r\n", 1)[1].strip()
        if record.startswith("WARC-Type: metadata") and body.endswith("}}}"):
            found.extend(image_tags(json.loads(body)["Envelope"]))
    return found


def image_tags(envelope: dict[str, Any]) -> list[tuple[str, str, str]]:
    page = envelope["WARC-Header-Metadata"]["WARC-Target-URI"]
    found = envelope["Payload-Metadata"].get("HTTP-Response-Metadata", {}).get("HTML-Metadata", {})
    against = urljoin(page, found.get("Head", {}).get("Base", ""))
    return [
        (urljoin(against, link["url"].strip()), link["url"], link["alt"])
        for link in found.get("Links", [])
        if link["path"] == "IMG@/src" and link.get("alt")
    ]


def test_every_plant_has_a_fate_and_is_in_the_smallest_crawl(crawl: Crawl) -> None:
    assert set(FATES) == set(Plant)
    assert {link.plant for link in crawl.links} == set(Plant)


def test_the_full_crawl_has_its_sound_pictures_and_mostly_matched_ones() -> None:
    counts = Counter(list_plants(FULL_IMAGES, np.random.default_rng(1)))
    sound = {plant: count for plant, count in counts.items() if FATES[plant].outcome == "success"}
    assert sum(sound.values()) == FULL_IMAGES
    assert sum(count for plant, count in sound.items() if FATES[plant].pair is Pair.MISMATCHED) > 400


def test_every_link_resolves_to_what_was_planned_and_nothing_else_is_there(crawl: Crawl) -> None:
    planned = {link.url for link in crawl.links}
    found = {url for path in crawl.wats for url, _, alt in tags(path)}
    without_alt = {link.url for link in crawl.links if not link.caption}
    assert found == planned - without_alt


def test_relative_links_are_written_relative_and_based_ones_need_their_base(crawl: Crawl) -> None:
    written = {url: as_written for path in crawl.wats for url, as_written, _ in tags(path)}
    for link in crawl.links:
        if link.plant in (Plant.RELATIVE, Plant.BASE):
            assert not written[link.url].strip().startswith("http")


def test_duplicates_are_where_they_were_planted(crawl: Crawl) -> None:
    counts = [Counter(url for url, _, _ in tags(path)) for path in crawl.wats]
    for link in crawl.links:
        found = sorted(count[link.url] for count in counts if link.url in count)
        if link.plant is Plant.DUPLICATE_WITHIN:
            assert found == [2]
        elif link.plant is Plant.DUPLICATE_ACROSS:
            assert found == [1, 1]
        elif link.caption:
            assert found == [1]


def test_alts_say_the_caption_once_cleaned(crawl: Crawl) -> None:
    captions = {link.url: link.caption for link in crawl.links}
    for url, _, alt in (tag for path in crawl.wats for tag in tags(path)):
        assert " ".join(html.unescape(alt).split()) == " ".join(html.unescape(captions[url]).split())


def test_short_alts_are_short_once_cleaned(crawl: Crawl) -> None:
    short = [link.caption for link in crawl.links if link.plant is Plant.ALT_TOO_SHORT]
    assert short
    assert all(len(" ".join(html.unescape(alt).split())) < 5 for alt in short)


def test_pictures_are_above_5000_bytes_unless_planted_small(crawl: Crawl) -> None:
    routes = json.loads((crawl.web / "routes.json").read_text())["routes"]
    for link in crawl.links:
        key = link.url.removeprefix("http://").replace(f":{crawl.allow_ports[0]}", "")
        if link.outcome in ("success", "opted_out", "too_small") and routes[key]["file"]:
            data = (crawl.web / routes[key]["file"]).read_bytes()
            Image.open(io.BytesIO(data)).load()
            assert (len(data) < 5_000) == (link.plant is Plant.SMALL_IMAGE)


def test_a_truncated_jpeg_does_not_decode_though_it_is_long_enough(crawl: Crawl) -> None:
    routes = json.loads((crawl.web / "routes.json").read_text())["routes"]
    link = next(link for link in crawl.links if link.plant is Plant.TRUNCATED_JPEG)
    data = (crawl.web / routes[link.url.removeprefix("http://").replace(":18080", "")]["file"]).read_bytes()
    assert len(data) > 5_000
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(data)).load()


def test_the_same_arguments_give_the_same_crawl(crawl: Crawl, tmp_path: Path) -> None:
    again = build_small_crawl(tmp_path / "again")

    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "wat.paths.gz")
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    assert contents(again.folder) == contents(crawl.folder)


def test_pictures_do_not_depend_on_how_many_processes_paint_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    orders = [Order(f"{n}.jpg", random_scene(rng), (140, 150), "JPEG", 90, n) for n in range(60)]
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        paint(tmp_path / str(processes), orders, processes)
    alone, together = (sorted((tmp_path / str(n)).iterdir()) for n in (1, 2))
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in together]


def test_expected_json_says_what_the_crawl_says(crawl: Crawl) -> None:
    assert tuple(read_expected(crawl.folder)) == crawl.links


def test_names_have_no_reliable_language() -> None:
    identifier = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    assert [name for name in NAMES if identifier.FindLanguage(text=name).is_reliable] == []
