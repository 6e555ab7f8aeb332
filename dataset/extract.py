"""Extract: one WAT file becomes one pack.

Invariant: every image of the file is a candidate or is counted under one reason: images = candidates + dropped; and no
URL is twice in a pack.

Streaming: what is held is one record, the rows that wait for their files, and a hash for each URL seen (some 70 bytes;
a WAT file gives under a million). What costs least is asked first, so that most images are dropped before their URL is
looked at, and only candidates are shown to CLD3.

Where the time goes, for 4,000 generated pages with 105 links, 15 images and 7 candidates each, in seconds of one busy
EPYC core: gzip and WARC 0.17, JSON 0.33, texts and URLs 0.23, parquet 0.1, CLD3 1.2. That is 33,000 candidates a second
without CLD3 (FastWARC, simdjson.loads of every record and urljoin: 20,000) and 13,500 with it. Next to be won: CLD3
lets go of the GIL, and equal texts of one site need to be asked about once.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, Self

import xxhash

from dataset.language import Subset, classify
from dataset.packs import Candidate, PackWriter
from dataset.recipe import LanguageRecipe, Recipe, TextRecipe
from dataset.text import clean
from dataset.urls import Unresolved, page_base, resolve
from dataset.wat import Image, Page, WatFile


class Dropped(StrEnum):
    """Why an image is no candidate: the first reason that holds, in this order."""

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
    """What a recipe says of texts."""

    text: TextRecipe = field(default_factory=TextRecipe)
    language: LanguageRecipe = field(default_factory=LanguageRecipe)

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Take the rules out of a recipe."""
        return cls(recipe.text, recipe.language)


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

    Each slot has its file, an empty one too; they are published at the end, or none if anything fails. `on_progress` is
    called after each page with its number of images, and may raise to end it all.

    Raises: WarcError when the source is no WAT file; whatever `source`, `write` and `on_progress` raise.
    """
    with ExitStack() as opened:
        files = [opened.enter_context(write(slot)) for slot in range(slots)]
        pack = opened.enter_context(PackWriter(files))
        pages, sieve = WatFile(source), Sieve(rules)
        for page in pages:
            for candidate, url_hash in sieve.candidates(page):
                pack.add(candidate, url_hash)
            if on_progress is not None:
                on_progress(len(page.images))
        pack.flush()
        counts = sieve.counts() | {
            "candidates": sum(pack.slot_rows),
            "subsets": {subset.value: pack.subset_rows[subset.value] for subset in Subset},
            "corrupt_records": pages.corrupt_records,
            "truncated": pages.truncated,
        }
        pack.finish({"wat": wat, "counts": json.dumps(counts)})
    return ExtractReport(wat=wat, slot_rows=pack.slot_rows, **counts)


class Sieve:
    """Takes the candidates out of pages and counts the rest; knows the URLs of one WAT file."""

    def __init__(self, rules: TextRules) -> None:
        self._rules = rules
        self._seen: set[int] = set()
        self._pages = 0
        self._images = 0
        self._dropped: Counter[str] = Counter()

    def candidates(self, page: Page) -> list[tuple[Candidate, int]]:
        """Return the page's new candidates, each with its URL's hash."""
        self._pages += 1
        self._images += len(page.images)
        base = page_base(page.url, page.base)
        found = []
        for image in page.images:
            taken = self._take(image, base, page.url) if image.alt else Dropped.NO_TEXT
            if isinstance(taken, StrEnum):
                self._dropped[taken] += 1
            else:
                found.append(taken)
        return found

    def counts(self) -> dict[str, Any]:
        """Return the numbers of an ExtractReport that are known here."""
        return {
            "pages": self._pages,
            "images": self._images,
            "dropped": {reason.value: self._dropped[reason] for reason in Dropped},
        }

    def _take(self, image: Image, base: str, page_url: str) -> tuple[Candidate, int] | Dropped | Unresolved:
        text = clean(image.alt or "")
        if not text:
            return Dropped.NO_TEXT
        if len(text) < self._rules.text.min_characters:
            return Dropped.TEXT_TOO_SHORT
        if len(text) > self._rules.text.max_characters:
            return Dropped.TEXT_TOO_LONG
        url = resolve(image.src, base)
        if isinstance(url, Unresolved):
            return url
        url_hash = xxhash.xxh3_64_intdigest(url.encode("ascii"))
        if url_hash in self._seen:
            return Dropped.DUPLICATE
        self._seen.add(url_hash)
        subset, language, probability = classify(text, self._rules.language.rule)
        return Candidate(url, text, language, probability, subset, page_url), url_hash
