import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.candidates.text import clean, decode_references

CASES = {
    "A red house": "A red house",
    "  Tom &amp; Jerry\n\t at home ": "Tom & Jerry at home",
    "Tom &amp;amp; Jerry": "Tom & Jerry",
    "&quot;Stra&szlig;e&quot; &#8211; &#x1F600;": '"Straße" – 😀',
    "AT&T, R&para and &copy 2020": "AT&T, R&para and &copy 2020",
    "no&nbsp;break, \u00a0wide\u3000space": "no break, wide space",
    "one\r\ntwo\u2028three\u0085four": "one two three four",
    "nul\x00 bell\x07 del\x7f c1\x9f": "nul bell del c1",
    "nul &#0; as a reference": "nul � as a reference",
    "lone \ud83d surrogate": "lone surrogate",
    "&#xD83D; as a reference": "� as a reference",
    "zero\u200bwidth soft\u00adhyphen \ufeffmark \u202eedit\u202c": "zerowidth softhyphen mark edit",
    "family 👨\u200d👩\u200d👧, می\u200cخواهم": "family 👨\u200d👩\u200d👧, می\u200cخواهم",
    "non\uffffcharacter \U0001fffe": "noncharacter",
    "tab&Tab;and&NewLine;line": "tab and line",
    "&nosuch; &#x110000; &;": "&nosuch; � &;",
    "\u200b \ufeff": "",
    "": "",
}


@pytest.mark.parametrize(("alt", "text"), CASES.items())
def test_alt_text_is_cleaned(alt: str, text: str) -> None:
    assert clean(alt) == text


ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(
    ANY_TEXT | st.lists(st.sampled_from(["&", "#", "0", "x9", ";", "amp", "\u200b", " ", "\ud800", "a"])).map("".join)
)
def test_cleaned_text_is_a_line_that_postgres_takes(alt: str) -> None:
    text = clean(alt)
    text.encode("utf-8")
    assert not set(text) & set("\x00\t\n\r\x0b\x0c\x1c\x85\u2028\u2029")
    assert text == " ".join(text.split())


@given(ANY_TEXT.filter(lambda text: "&" not in text))
def test_cleaning_twice_is_cleaning_once(alt: str) -> None:
    assert clean(clean(alt)) == clean(alt)


@pytest.mark.parametrize("query", ["?a=1&copy=2&lt=3", "?a&b&amp", "?x=&notit"])
def test_a_query_without_semicolons_is_left_alone(query: str) -> None:
    assert decode_references(query) == query
