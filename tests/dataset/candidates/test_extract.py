import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest
import xxhash

from dataset.candidates import extract as extracting
from dataset.candidates.extract import Dropped, ExtractReport, TextRules, extract_pack
from dataset.candidates.warc import WarcError
from dataset.formats.packs import PACK_SCHEMA
from dataset.recipe.recipe import Recipe, TextRecipe
from dataset.store.store import Store
from tests.dataset.candidates.wat_bytes import image, page_json, wat_bytes

ENGLISH = "A portrait of an old man with a hat, standing in front of his house"
GERMAN = "Ein roter Kreis auf blauem Grund, gemalt von einem kleinen Kind"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def extract(store: Store, wat: bytes, *, slots: int = 1, **rules: Any) -> tuple[ExtractReport, list[pa.Table]]:
    """Extract into the store and read the slots' files."""
    report = extract_pack(
        io.BytesIO(wat),
        wat="crawl/1.warc.wat.gz",
        rules=TextRules(**rules),
        slots=slots,
        write=lambda slot: store.write(f"pack.{slot}.parquet"),
    )
    return report, [store.read_table(f"pack.{slot}.parquet") for slot in range(slots)]


def test_a_candidate_carries_its_language_and_its_page(store: Store) -> None:
    page = page_json("https://a.example/x/", [image("1.jpg", ENGLISH), image("2.jpg", GERMAN), image("3.jpg", "12345")])
    report, (table,) = extract(store, wat_bytes(page))
    assert table.schema.equals(PACK_SCHEMA)
    english, german, number = table.to_pylist()
    assert english == {
        "url": "https://a.example/x/1.jpg",
        "text": ENGLISH,
        "language": "en",
        "probability": english["probability"],
        "subset": "en",
        "page_url": "https://a.example/x/",
    }
    assert (german["language"], german["subset"]) == ("de", "multi")
    assert (number["language"], number["probability"], number["subset"]) == (None, None, "nolang")
    assert report.subsets == {"en": 1, "multi": 1, "nolang": 1}


def test_the_images_of_a_page_that_opts_out_are_dropped_and_counted_unless_the_recipe_says_otherwise(
    store: Store,
) -> None:
    images = [image("1.jpg", ENGLISH), image("2.jpg"), image("data:,", GERMAN)]
    dated = {"X-Robots-Tag": "unavailable_after: Fri, 25 Jun 2027 15:00:00 GMT, noai"}
    wat = wat_bytes(
        page_json("https://a.example/", images, metas=[{"name": "robots", "content": "noimageai, noindex"}]),
        page_json("https://b.example/", images, headers=dated),
        page_json("https://c.example/", images, headers={"X-Robots-Tag": "otherbot: noai"}),
        page_json("https://d.example/", images, metas=[{"name": "robots", "content": "noindex"}]),
    )
    report, (table,) = extract(store, wat)
    assert table["url"].to_pylist() == ["https://c.example/1.jpg", "https://d.example/1.jpg"]
    assert {reason: n for reason, n in report.dropped.items() if n} == {"opted_out": 6, "no_text": 2, "not_http": 2}
    assert report.images == report.candidates + sum(report.dropped.values()) == 12
    report, (table,) = extract(store, wat, page_opt_outs=False)
    assert len(table) == 4
    assert report.dropped["opted_out"] == 0


def test_every_image_is_a_candidate_or_has_one_reason(store: Store) -> None:
    images = [
        image("/a.jpg"),
        image("/a.jpg", ""),
        image("/a.jpg", " &nbsp;\u200b "),
        image("/a.jpg", "four"),
        image("/a.jpg", "f&amp;&#8203; r"),
        image("/a.jpg", "x" * 1001),
        image("data:image/png;base64,AA", "a data address"),
        image("http://[/a.jpg", "no address"),
        image("/" + "a" * 3000, "a long address"),
        image("/a.jpg", "fives"),
        image("/x/../a.jpg#top", "the same address again"),
        image("/b.jpg", "x" * 1000),
    ]
    report, (table,) = extract(store, wat_bytes(page_json("https://a.example/", images)))
    assert report.dropped == {
        "opted_out": 0,
        "no_text": 3,
        "text_too_short": 2,
        "text_too_long": 1,
        "not_http": 1,
        "bad_url": 1,
        "url_too_long": 1,
        "duplicate": 1,
    }
    assert set(report.dropped) == set(Dropped)
    assert table["text"].to_pylist() == ["fives", "x" * 1000]
    assert report.images == len(images) == report.candidates + sum(report.dropped.values())


def test_the_first_text_of_an_address_stays_whatever_page_has_it_next(store: Store) -> None:
    first = page_json("https://a.example/", [image("https://cdn.example/1.jpg", "first text")])
    second = page_json("https://b.example/", [image("//cdn.example/1.jpg", "second text")])
    report, (table,) = extract(store, wat_bytes(first, second))
    assert table["text"].to_pylist() == ["first text"]
    assert report.dropped["duplicate"] == 1


def test_addresses_are_resolved_against_the_base_where_the_page_has_one(store: Store) -> None:
    page = page_json("https://a.example/x/y.html", [image("1.jpg", "relative")], base="//cdn.example/img/")
    _, (table,) = extract(store, wat_bytes(page))
    assert table["url"].to_pylist() == ["https://cdn.example/img/1.jpg"]
    assert table["page_url"].to_pylist() == ["https://a.example/x/y.html"]


def test_the_recipe_says_how_long_a_text_may_be(store: Store) -> None:
    images = [image("/1.jpg", "three"), image("/2.jpg", "eleven char"), image("/3.jpg", "more than eleven")]
    report, (table,) = extract(
        store, wat_bytes(page_json("https://a.example/", images)), text=TextRecipe(min_characters=6, max_characters=11)
    )
    assert table["text"].to_pylist() == ["eleven char"]
    assert (report.dropped["text_too_short"], report.dropped["text_too_long"]) == (1, 1)
    assert TextRules.of(Recipe()) == TextRules()


@pytest.mark.parametrize("held", [1, 7, 100_000])
def test_an_address_decides_its_slot_however_many_rows_are_held(
    store: Store, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(extracting, "ROWS_HELD", held)
    pages = [page_json(f"https://{n}.example/", [image("/1.jpg", f"text of {n}")]) for n in range(50)]
    report, tables = extract(store, wat_bytes(*pages), slots=3)
    assert report.slot_rows == [len(table) for table in tables]
    assert sum(report.slot_rows) == report.candidates == 50
    for slot, table in enumerate(tables):
        urls = table["url"].to_pylist()
        assert len(urls) > 5
        assert all(xxhash.xxh3_64_intdigest(url.encode()) % 3 == slot for url in urls)
        assert urls == sorted(urls, key=lambda url: int(url[8:].partition(".")[0]))


def test_a_pack_says_where_it_is_from_and_what_was_dropped(store: Store) -> None:
    report, (_, second) = extract(store, wat_bytes(page_json("https://a.example/", [image("/1.jpg", "")])), slots=2)
    metadata = second.schema.metadata
    assert metadata[b"wat"] == b"crawl/1.warc.wat.gz"
    assert (metadata[b"slot"], metadata[b"slots"]) == (b"1", b"2")
    assert json.loads(metadata[b"counts"])["dropped"]["no_text"] == 1
    assert json.loads(json.dumps(report.to_json())) == report.to_json()


def test_the_same_file_gives_the_same_pack_bit_for_bit(store: Store) -> None:
    wat = wat_bytes(*[page_json(f"https://{n}.example/", [image("/1.jpg", f"text of {n}")]) for n in range(50)])
    extract(store, wat)
    first = store.read("pack.0.parquet")
    extract(store, wat)
    assert store.read("pack.0.parquet") == first


def test_a_file_without_candidates_gives_empty_packs(store: Store) -> None:
    report, tables = extract(store, wat_bytes(), slots=2)
    assert [len(table) for table in tables] == report.slot_rows == [0, 0]
    assert (report.pages, report.images) == (0, 0)


def test_a_truncated_file_gives_the_pack_of_what_came_before(store: Store) -> None:
    wat = wat_bytes(*[page_json(f"https://{n}.example/", [image("/1.jpg", "some text")]) for n in range(3)])
    report, (table,) = extract(store, wat[:-60])
    assert report.truncated
    assert report.corrupt_records == 0
    assert len(table) == 2


def test_a_file_that_is_not_a_wat_file_leaves_no_pack(store: Store) -> None:
    with pytest.raises(WarcError):
        extract(store, b"<html>404</html>", slots=2)
    assert store.list() == []


def test_progress_covers_every_image_and_may_stop_the_work(store: Store) -> None:
    wat = wat_bytes(*[page_json(f"https://{n}.example/", [image("/1.jpg", "text")] * (n + 1)) for n in range(3)])
    seen: list[int] = []

    def stop(count: int) -> None:
        seen.append(count)
        if sum(seen) > 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        extract_pack(
            io.BytesIO(wat),
            wat="x",
            rules=TextRules(),
            slots=2,
            write=lambda slot: store.write(str(slot)),
            on_progress=stop,
        )
    assert seen == [1, 2]
    assert store.list() == []


def test_no_slot_is_published_when_another_cannot_be_opened(store: Store) -> None:
    @contextmanager
    def write(slot: int) -> Iterator[BinaryIO]:
        if slot == 1:
            raise OSError("disk full")
        with store.write(str(slot)) as file:
            yield file

    with pytest.raises(OSError, match="disk full"):
        extract_pack(io.BytesIO(wat_bytes()), wat="x", rules=TextRules(), slots=2, write=write)
    assert store.list() == []
