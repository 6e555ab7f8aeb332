"""Extract: turn one WAT file into one pack.

Invariant: every image of the file is a candidate or is counted under one reason (images = candidates + dropped), and a
pack contains each URL once.

Memory is bounded: about a megabyte of WARC records, the rows waiting to be written, and 70 bytes for each URL seen (a
WAT file has less than a million). Cheap checks come first: images without alt text are counted without becoming Python
objects, the text is checked before the URL, and only candidates go to CLD3.

docs/performance.md lists what each step costs and what was tried.
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
"""Candidates held before they are written: about 30 MB. Each slot's row group gets its share of them."""


class Dropped(StrEnum):
    """Why an image is not a candidate: the first reason that applies, in this order."""

    OPTED_OUT = "opted_out"
    """The page says noai or noimageai."""
    NO_TEXT = "no_text"
    """The image has no alt text, or none is left after cleaning."""
    TEXT_TOO_SHORT = "text_too_short"
    TEXT_TOO_LONG = "text_too_long"
    NOT_HTTP = Unresolved.NOT_HTTP.value
    BAD_URL = Unresolved.BAD_URL.value
    URL_TOO_LONG = Unresolved.URL_TOO_LONG.value
    DUPLICATE = "duplicate"
    """The URL occurred earlier in this WAT file; the first text is kept."""


@dataclass(frozen=True, slots=True)
class TextRules:
    """The recipe's rules for pages and texts."""

    text: TextRecipe = field(default_factory=TextRecipe)
    language: LanguageRecipe = field(default_factory=LanguageRecipe)
    page_opt_outs: bool = True

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Return the rules of a recipe."""
        return cls(recipe.text, recipe.language, recipe.page_opt_outs)


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """The counts for one WAT file."""

    wat: str
    pages: int
    """Pages with at least one image."""
    images: int
    candidates: int
    subsets: Mapping[str, int]
    """Candidates by subset, with an entry for every subset."""
    dropped: Mapping[str, int]
    """Images by reason, with an entry for every reason."""
    corrupt_records: int
    truncated: bool
    """The file ends within a record; everything before that is in the pack."""
    slot_rows: list[int]
    """Candidates by slot."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
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
    """Read the WAT file `source` and write its pack; `write(slot)` opens the file of a slot as `Store.write` does.

    Every slot gets a file, even if it is empty. The files are published together at the end, or not at all if reading
    or writing fails. `on_progress` is called after each page with its number of images; an exception that it raises
    stops the work.

    Raises: WarcError when the source is not a WAT file; whatever `source`, `write` and `on_progress` raise.
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
    """Collect the candidates of pages and count the other images; remember all URLs of one WAT file.

    Its length is the number of candidates that were not taken yet.
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
        """Add the page's new candidates."""
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
        """Remove and return the collected candidates, with languages and in the pack's schema, and the hashes of their
        URLs.
        """
        texts = pa.array(self._texts, pa.string())
        labels = classify_all(texts, self._rules.language.rule)
        columns = {"url": self._urls, "text": texts, "page_url": self._page_urls} | labels._asdict()
        taken = pa.table(columns, PACK_SCHEMA), np.array(self._hashes, np.uint64)
        self._clear()
        return taken

    def counts(self) -> dict[str, Any]:
        """Return those counts of an ExtractReport that the sieve keeps."""
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
    """Return the reason for dropping a text of the wrong length."""
    if not text:
        return Dropped.NO_TEXT
    return Dropped.TEXT_TOO_SHORT if len(text) < min_characters else Dropped.TEXT_TOO_LONG
