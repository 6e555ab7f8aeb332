"""Clean alt text into a caption: one line, as a browser would show it.

Invariant: cleaned text contains no line break, tab, NUL, other control character or lone surrogate. So it is valid
UTF-8, fits one line of a batch's payload, and can be stored in Postgres.

A text that is too long is dropped, not cut: nobody wrote half of a text as a caption, and LAION's `hash` covers the
whole text. The default limit of 1,000 characters is three times what a text tower of 77 tokens reads.

WAT files made before July 2019 contain attributes as they are in the HTML, with character references
(commoncrawl/ia-web-commons issue 14); later files contain decoded attributes.

Rejected: `html.unescape` alone, which also decodes `&copy=2` in a URL and `R&para` in a text, unlike browsers in
attributes; Unicode normalisation, because each tokenizer does its own.
"""

import html
import re
from functools import partial

# Pages that escape twice by mistake show &amp;amp; as &amp;. Deeper nesting is noise.
MAX_UNESCAPES = 3

_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")

# Characters without width: controls other than white space, soft hyphen, direction marks, zero-width space, byte-order
# mark, interlinear and object marks, lone surrogates, noncharacters. The joiners U+200C and U+200D, which change how
# Persian and emoji look, and variation selectors are kept.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffc\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)

_remove_invisible = partial(_INVISIBLE.sub, "")


def clean(alt: str) -> str:
    """Return `alt` with character references decoded, invisible characters removed, and white space collapsed."""
    if "&" in alt:
        alt = decode_references(alt)
    if alt.isprintable():  # the plain space is the only printable white space
        return alt.strip() if "  " not in alt else " ".join(alt.split())
    return " ".join(_remove_invisible(alt).split())


def decode_references(attribute: str) -> str:
    """Decode the HTML character references that end with a semicolon in an attribute's value."""
    for _ in range(MAX_UNESCAPES):
        decoded = _REFERENCE.sub(_decode, attribute)
        if decoded == attribute:
            break
        attribute = decoded
    return attribute


def _decode(reference: re.Match[str]) -> str:
    return html.unescape(reference.group())
