"""A caption's subset: English with confidence, another language with confidence, or neither.

CLD3 says the language, as it did for LAION-5B; the codes are CLD3's own, mostly ISO 639-1, and with relics ('iw' for
Hebrew) and scripts ('ru-Latn') as LAION's LANGUAGE column has them.

On short texts CLD3 is often wrong and sure of it: 'red circle' is Javanese at .98, and half of invented names come out
as reliably foreign. LAION took its word, so that is the default rule; the other one asks for more the shorter the text,
and trades recall for precision. Measured on 300 invented names and 62 captions of 1 to 7 words (en, de, es, ru, ja):
names given a language 53 % by the first, 8 % by the second rule; captions given a wrong one 13 against 3, the right
one 29 against 17.

Many texts are classified at once: equal ones of a batch are asked about once, and CLD3 finds its weights in the cache,
which it does not between one page's JSON and the next (28,000 texts then took 1.0 instead of 1.7 CPU-seconds, on a busy
machine). What is put around CLD3 costs 2 of 33 µs a text.

Both hold a text without any letter for nolang, where CLD3 asked about nothing answers Japanese, reliably.
"""

import threading
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, assert_never

import gcld3
import pyarrow as pa
import pyarrow.compute as pc

from dataset.recipe.recipe import LanguageRule

# CLD3 counts bytes of letters: with a minimum of 1 it says 'und' where there are none. It was trained on snippets of up
# to some hundred bytes, and more than 1,000 change nothing but the time.
MIN_BYTES, MAX_BYTES = 1, 1_000

# The length-aware rule: from LONG_BYTES of UTF-8 on CLD3's own bar (.7) holds, at SHORT_BYTES and below CERTAIN, and
# between them the bar falls in a straight line. Bytes, not characters: another script tells more than a Latin letter.
SHORT_BYTES, LONG_BYTES = 16, 48
CERTAIN, RELIABLE = 0.999, 0.7

_threads = threading.local()


class Subset(StrEnum):
    """The three parts of a crawl."""

    EN = "en"
    """English with confidence."""
    MULTI = "multi"
    """Another language with confidence."""
    NOLANG = "nolang"
    """Neither."""


class Labels(NamedTuple):
    """The languages of many texts as columns, in their order."""

    subset: pa.Array
    """string: what a Subset is called."""
    language: pa.Array
    """string: CLD3's code; null in nolang."""
    probability: pa.Array
    """float32: CLD3's probability of its best guess, taken or not; null where the text has no letter."""


def classify_all(texts: pa.Array, rule: LanguageRule = LanguageRule.LAION) -> Labels:
    """Classify cleaned texts, equal ones once -> three arrays as long as `texts`."""
    encoded = texts.dictionary_encode()
    asked: list[str] = encoded.dictionary.to_pylist()
    languages, probabilities, reliable = _guesses(asked)
    match rule:
        case LanguageRule.LAION:
            sure = reliable
        case LanguageRule.LENGTH_AWARE:
            bars = map(required_probability, asked)
            sure = [known and got >= bar for known, got, bar in zip(reliable, probabilities, bars, strict=True)]
        case _:
            assert_never(rule)
    guessed = pa.array(languages, pa.string())
    has_letters = pc.not_equal(guessed, "und")
    believed = pc.and_(pa.array(sure, pa.bool_()), has_letters)
    named = pc.if_else(pc.equal(guessed, "en"), Subset.EN.value, Subset.MULTI.value)
    labels = Labels(
        pc.if_else(believed, named, Subset.NOLANG.value),
        pc.if_else(believed, guessed, None),
        pc.if_else(has_letters, pa.array(probabilities, pa.float32()), None),
    )
    return Labels(*(label.take(encoded.indices) for label in labels))


def _guesses(texts: Sequence[str]) -> tuple[list[str], list[float], list[bool]]:
    """Ask CLD3 about each text -> languages, their probabilities, and whether CLD3 relies on them."""
    languages, probabilities, reliable = [], [], []
    find = _detector().FindLanguage
    for text in texts:  # a function and a tuple for each text took 2 µs more of its 33
        guess = find(text)
        languages.append(guess.language)
        probabilities.append(guess.probability)
        reliable.append(guess.is_reliable)
    return languages, probabilities, reliable


def required_probability(text: str) -> float:
    """Return the probability from which on the length-aware rule believes CLD3."""
    n = len(text.encode("utf-8"))
    shortness = min(max((LONG_BYTES - n) / (LONG_BYTES - SHORT_BYTES), 0.0), 1.0)
    return RELIABLE + (CERTAIN - RELIABLE) * shortness


def _detector() -> gcld3.NNetLanguageIdentifier:
    """Return this thread's network, loaded when first asked for: CLD3 lets go of the GIL, and is not to be shared."""
    if not hasattr(_threads, "detector"):
        _threads.detector = gcld3.NNetLanguageIdentifier(MIN_BYTES, MAX_BYTES)
    return _threads.detector
