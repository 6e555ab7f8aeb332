"""Alt text as a caption: what a browser would show of it, on one line.

Invariant: cleaned text has no line break, tab, NUL, other control or lone surrogate, so it is valid UTF-8, fits a line
of a batch's payload and can be stored in Postgres.

A text that is too long is dropped, not cut: half a text is a caption that nobody wrote, a cut in the middle of a list
of search words is as bad as the list, and LAION's `hash` is taken over the whole text. 1,000 characters (the recipe's
default) are three times what a text model of 77 tokens reads.

WAT files made before July 2019 hold attributes as they stood in the HTML, with their character references
(commoncrawl/ia-web-commons issue 14), later ones what they stand for. Rejected: `html.unescape` alone, which also takes
`&copy=2` in an address and `R&para` in a text for references, as no browser does within an attribute; and normalising
Unicode, which each tokenizer does in its own way.
"""

import html
import re
from functools import partial

# A page that escapes twice shows &amp;amp; as &amp;: nobody means it. More often than that is noise.
MAX_UNESCAPES = 3

_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")

# What takes no place on a line: controls that are no white space, soft hyphen, marks of direction, zero-width space and
# joiner, byte-order mark, interlinear and object marks, lone surrogates, noncharacters. Kept: the joiners U+200C and
# U+200D, which change how Persian and emoji look, and variation selectors.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffc\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)

_remove_invisible = partial(_INVISIBLE.sub, "")


def clean(alt: str) -> str:
    """Return `alt` with its character references decoded, what is invisible removed and white space collapsed."""
    if "&" in alt:
        alt = decode_references(alt)
    if alt.isprintable():  # of white space only the plain space is
        return alt.strip() if "  " not in alt else " ".join(alt.split())
    return " ".join(_remove_invisible(alt).split())


def decode_references(attribute: str) -> str:
    """Decode the HTML character references of an attribute's value that end with a semicolon."""
    for _ in range(MAX_UNESCAPES):
        decoded = _REFERENCE.sub(_decode, attribute)
        if decoded == attribute:
            break
        attribute = decoded
    return attribute


def _decode(reference: re.Match[str]) -> str:
    return html.unescape(reference.group())
