"""Read the values of JSON lines, and of a JSON array as a stream.

A malformed line does not affect other lines. A malformed array cannot be read past the error, because no rule says
where its next element begins.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator

from .lines import MAX_LINE_BYTES, Lines, Text, TextListError

_SPACE = re.compile(r"[ \t\n\r]*")
_MAY_CONTINUE = re.compile(r"(\.|[eE][+-]?)?\Z")
"""Text behind an element that may be a number cut in two: 1 and then nothing yet, a point, or a part of an exponent."""
_SCAN = json.JSONDecoder().raw_decode


def line_values(blocks: Iterator[Lines]) -> Iterator[Iterable[object]]:
    """Yield the values of lines that are not blank, None for invalid JSON; one value at a time is in memory."""
    for lines in blocks:
        yield (_value(line) for line in lines if line is None or (line and not line.isspace()))


def array_values(text: Text) -> Iterator[Iterable[object]]:
    """Yield the elements of an array in groups.

    Raises: TextListError if the array is invalid JSON, ends early, or has an element over MAX_LINE_BYTES.
    """
    array = _Array()
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    while block := text.read():
        yield array.feed(decode(block))
    yield array.feed(decode(b"", final=True), is_end=True)


def _value(line: str | None) -> object:
    try:
        if line is None:
            return None
        value, end = _SCAN(line)
        return value if end == len(line) else json.loads(line)
    except (ValueError, RecursionError):
        return _spaced_value(str(line))


def _spaced_value(line: str) -> object:
    """Return the value of a line that may begin with white space; None for invalid JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


class _Array:
    """Parses an array piece by piece (RFC 8259, section 5): the text not parsed yet, and the token expected next."""

    def __init__(self) -> None:
        self._text = ""
        self._read = 0
        self._next = "["  # then "value or ]" once, then ", or ]" and "value" in turn, and "end"

    def feed(self, text: str, *, is_end: bool = False) -> list[object]:
        """Return the elements that `text` completes."""
        self._text += text
        self._read += len(text)
        values: list[object] = []
        place = self._skip_space(0)
        while place < len(self._text):
            if "value" in self._next and self._text[place] != "]":
                element = self._element(place, is_end=is_end)
                if element is None:
                    break
                value, place = element
                values.append(value)
                self._next = ", or ]"
            else:
                self._punctuate(self._text[place])
                place += 1
            place = self._skip_space(place)
        self._text = self._text[place:]
        if is_end and self._next != "end":
            raise TextListError("is a JSON array that breaks off: fetch it again")
        return values

    def _element(self, place: int, *, is_end: bool) -> tuple[object, int] | None:
        """Return an element and its end; None if the element may continue in the next text."""
        try:
            value, end = _SCAN(self._text, place)
        except (ValueError, RecursionError) as error:
            if is_end or len(self._text) - place > MAX_LINE_BYTES:
                raise TextListError(
                    f"is not a JSON array before character {self._read} ({error}): check the file"
                ) from error
            return None
        return None if not is_end and _MAY_CONTINUE.match(self._text, end) else (value, end)

    def _punctuate(self, mark: str) -> None:
        if mark not in self._next or mark not in "[,]":
            what = f"{mark!r} before character {self._read} where {self._next!r} should be"
            raise TextListError(f"is not a JSON array ({what}): check the file")
        self._next = {"[": "value or ]", ",": "value", "]": "end"}[mark]

    def _skip_space(self, place: int) -> int:
        found = _SPACE.match(self._text, place)
        assert found is not None
        return found.end()
