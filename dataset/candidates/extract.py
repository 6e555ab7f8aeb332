"""Extract: one WAT file becomes one pack.

Invariant: every image of the file is a candidate or is counted under one reason: images = candidates + dropped; and no
URL is twice in a pack.

Streaming: what is held is a megabyte of records, the rows that wait for their file, and a hash for each URL seen (some
70 bytes; a WAT file gives under a million). What costs least is asked first: an image without an alt is counted and
never becomes a Python object, the text comes before the URL, and only candidates are shown to CLD3, a batch at a time.

Where the time goes, for 4,000 generated pages of 105 links, 15 images and 7 candidates each, in CPU-seconds on a busy
core: gzip and WARC 0.15 (FastWARC alone 0.14), JSON 0.06, images 0.07, URLs 0.06, texts 0.01, the rest of the sieve
0.02, parquet 0.03, and CLD3 0.9; without language 0.45 to 0.52, where cc2dataset takes 0.85 to 1.16 for the file and
neither cleans nor drops duplicates. `tests/benchmarks/bench_extract.py` takes them in turns. With language CLD3 sets
the pace: asked once about each distinct text it takes two thirds of all.

What helped: images by a regular expression in what simdjson found valid (0.27 to 0.23); columns instead of an object a
row, counts by plain strings and the page's origin and folder worked out once (0.32 to 0.12); CLD3 in batches; the
records by the megabyte, each step over all of them (0.60 to 0.45, see `wat`); `../` without `resolve`'s long way
(0.02). What did not: switching the garbage collector off, and other inflaters. Member by member, the file takes zlib
0.18, zlib-ng and ISA-L 0.11 and libdeflate 0.09, without WARC headers, where FastWARC takes 0.14 with them: two of
three members are so small that their tables cost more than their bytes. To be won: CLD3's own time, which nothing here
shortens.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from dataset import strict_json
from dataset.candidates.language import Subset, classify_all
from dataset.candidates.opt_out import PAGE_AGENTS, PAGE_WORDS, reserves
from dataset.candidates.text import clean
from dataset.candidates.urls import Unresolved, page_base, resolve
from dataset.candidates.wat import Page, WatFile
from dataset.formats.packs import PACK_SCHEMA, PackWriter
from dataset.formats.url_hashes import Hashes
from dataset.recipe.recipe import LanguageRecipe, Recipe, TextRecipe

ROWS_HELD = 65_536
"""Candidates that wait to be written: some 30 MB, and a row group is as many rows by the number of slots."""


class Dropped(StrEnum):
    """Why an image is no candidate: the first reason that holds, in this order."""

    OPTED_OUT = "opted_out"
    """Its page says noai or noimageai."""
    NO_TEXT = "no_text"
    """No alt, or nothing left of it after cleaning."""
    TEXT_TOO_SHORT = "text_too_short"
    TEXT_TOO_LONG = "text_too_long"
    NOT_HTTP = Unresolved.NOT_HTTP.value
    BAD_URL = Unresolved.BAD_URL.value
    URL_TOO_LONG = Unresolved.URL_TOO_LONG.value
    DUPLICATE = "duplicate"
    """The URL was in this WAT file before; the first text stays."""


@dataclass(frozen=True, slots=True)
class TextRules:
    """What a recipe says of pages and their texts."""

    text: TextRecipe = field(default_factory=TextRecipe)
    language: LanguageRecipe = field(default_factory=LanguageRecipe)
    page_opt_outs: bool = True

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Take the rules out of a recipe."""
        return cls(recipe.text, recipe.language, recipe.page_opt_outs)


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What became of one WAT file."""

    wat: str
    pages: int
    """Pages with at least one image."""
    images: int
    candidates: int
    subsets: Mapping[str, int]
    """Candidates by subset, each subset named."""
    dropped: Mapping[str, int]
    """Images by reason, each reason named."""
    corrupt_records: int
    truncated: bool
    """The file breaks off; what came before is in the pack."""
    slot_rows: list[int]
    """Candidates by slot."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return asdict(self)


def extract_pack(
    source: BinaryIO,
    *,
    wat: str,
    rules: TextRules,
    slots: int,
    write: Callable[[int], AbstractContextManager[BinaryIO]],
    on_progress: Callable[[int], object] | None = None,
) -> ExtractReport:
    """Read the WAT file `source` and write its pack; `write(slot)` opens a slot's file, as `Store.write` opens files.

    Each slot has its file, an empty one too; they are published at the end, and none where reading or writing fails.
    `on_progress` is called after each page with its number of images, and may raise to end it all.

    Raises: WarcError when the source is no WAT file; whatever `source`, `write` and `on_progress` raise.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(write(slot)) for slot in range(slots)]
        pack = opened.enter_context(PackWriter(files))
        pages, sieve = WatFile(source), Sieve(rules)
        for page in pages:
            sieve.sift(page)
            if len(sieve) >= ROWS_HELD:
                pack.write(*sieve.take())
            if on_progress is not None:
                on_progress(len(page.images) + page.images_without_alt)
        pack.write(*sieve.take())
        counts = sieve.counts() | {
            "candidates": sum(pack.slot_rows),
            "subsets": {subset.value: pack.subset_rows[subset.value] for subset in Subset},
            "corrupt_records": pages.corrupt_records,
            "truncated": pages.truncated,
        }
        pack.finish({"wat": wat, "counts": strict_json.dumps(counts)})
    return ExtractReport(wat=wat, slot_rows=pack.slot_rows, **counts)


class Sieve:
    """Takes the candidates out of pages and counts the rest; knows the URLs of one WAT file.

    Its length is the number of candidates that wait to be taken.
    """

    def __init__(self, rules: TextRules) -> None:
        self._rules = rules
        self._seen: set[int] = set()
        self._pages = 0
        self._images = 0
        self._dropped: Counter[str] = Counter()
        self._clear()

    def __len__(self) -> int:
        return len(self._urls)

    def sift(self, page: Page) -> None:
        """Keep the page's new candidates."""
        self._pages += 1
        self._images += len(page.images) + page.images_without_alt
        if page.robots and self._rules.page_opt_outs and _is_reserved(page):
            self._dropped["opted_out"] += len(page.images) + page.images_without_alt
            return
        self._dropped["no_text"] += page.images_without_alt
        least, most = self._rules.text.min_characters, self._rules.text.max_characters
        base, seen = page_base(page.url, page.base), self._seen
        waiting = len(self._urls)
        for src, alt in page.images:
            text = clean(alt)
            if not least <= len(text) <= most:
                self._dropped[_unfit(text, least)] += 1
                continue
            url = resolve(src, base)
            if type(url) is Unresolved:
                self._dropped[url.value] += 1
                continue
            url_hash = xxh3_64_intdigest(url.encode())
            if url_hash in seen:
                self._dropped["duplicate"] += 1
                continue
            seen.add(url_hash)
            self._urls.append(url)
            self._texts.append(text)
            self._hashes.append(url_hash)
        self._page_urls += [page.url] * (len(self._urls) - waiting)

    def take(self) -> tuple[pa.Table, Hashes]:
        """Return the candidates that wait, in the pack's schema and with their languages, and their URLs' hashes."""
        texts = pa.array(self._texts, pa.string())
        labels = classify_all(texts, self._rules.language.rule)
        columns = {"url": self._urls, "text": texts, "page_url": self._page_urls} | labels._asdict()
        taken = pa.table(columns, PACK_SCHEMA), np.array(self._hashes, np.uint64)
        self._clear()
        return taken

    def counts(self) -> dict[str, Any]:
        """Return the numbers of an ExtractReport that are known here."""
        return {
            "pages": self._pages,
            "images": self._images,
            "dropped": {reason.value: self._dropped[reason.value] for reason in Dropped},
        }

    def _clear(self) -> None:
        self._urls: list[str] = []
        self._texts: list[str] = []
        self._page_urls: list[str] = []
        self._hashes: list[int] = []


def _is_reserved(page: Page) -> bool:
    return any(reserves(line, PAGE_AGENTS, PAGE_WORDS) for line in page.robots)


def _unfit(text: str, min_characters: int) -> Dropped:
    """Say what is wrong with the length of a text."""
    if not text:
        return Dropped.NO_TEXT
    return Dropped.TEXT_TOO_SHORT if len(text) < min_characters else Dropped.TEXT_TOO_LONG
