"""The plants of the mini crawl, and the outcome that each planted link must have.

The set is closed: a link of the crawl is exactly one plant, and FATES maps every plant to its outcome, so that each
link can be compared with what was planted. Outcomes are written as they occur in the data, not imported from the code
under test: a renamed outcome must fail here.
"""

from dataclasses import dataclass
from enum import StrEnum


class Plant(StrEnum):
    """One reason for a link to be in the crawl."""

    MATCHED = "matched"  # the caption says what the picture shows
    MISMATCHED = "mismatched"  # the caption says something else
    NAME = "name"  # an invented name: no language can be told
    RELATIVE = "relative"  # resolved against the page
    BASE = "base"  # resolved against the page's <base>
    DUPLICATE_WITHIN = "duplicate_within"  # on two pages of one WAT file
    DUPLICATE_ACROSS = "duplicate_across"  # in two WAT files
    COPY = "copy"  # an edit of a picture that lies elsewhere, too
    TEMPLATE = "template"  # another colour in a picture that is the same otherwise
    REDIRECT = "redirect"  # two hops to a picture, the second on another host
    ALT_TOO_SHORT = "alt_too_short"
    NOT_HTTP = "not_http"  # a data: URL
    NOT_FOUND = "not_found"
    GONE = "gone"
    SERVER_ERROR = "server_error"
    DEAD_PORT = "dead_port"  # nobody listens
    SILENT_HOST = "silent_host"  # accepts and never answers
    SLOW_BODY = "slow_body"  # a byte now and then
    ENDLESS_BODY = "endless_body"
    REDIRECT_LOOP = "redirect_loop"
    REDIRECT_LINK_LOCAL = "redirect_link_local"  # to the address where clouds keep credentials
    HTML_AS_JPEG = "html_as_jpeg"
    TRUNCATED_JPEG = "truncated_jpeg"  # the file itself ends early
    DECOMPRESSION_BOMB = "decompression_bomb"  # a small PNG of 400 million pixels
    SMALL_IMAGE = "small_image"  # a sound picture under 5,000 received bytes
    WRONG_LENGTH = "wrong_length"  # Content-Length promises more than is sent
    ENDLESS_GZIP = "endless_gzip"  # a few bytes on the wire that inflate for ever
    OPT_OUT = "opt_out"  # X-Robots-Tag: noai


class Pair(StrEnum):
    """How a fetched picture and its caption go together, hence what the filter should say."""

    MATCHED = "matched"  # to be kept
    MISMATCHED = "mismatched"  # to be dropped
    UNRELATED = "unrelated"  # nothing is promised


@dataclass(frozen=True, slots=True)
class Fate:
    """What must become of a plant: an outcome of download, or no candidate at all (`outcome` None)."""

    outcome: str | None
    pair: Pair | None = None


_KEPT = Fate("success", Pair.MATCHED)

FATES: dict[Plant, Fate] = {
    Plant.MATCHED: _KEPT,
    Plant.MISMATCHED: Fate("success", Pair.MISMATCHED),
    Plant.NAME: Fate("success", Pair.UNRELATED),
    Plant.RELATIVE: _KEPT,
    Plant.BASE: _KEPT,
    Plant.DUPLICATE_WITHIN: _KEPT,
    Plant.DUPLICATE_ACROSS: _KEPT,
    Plant.COPY: _KEPT,
    Plant.TEMPLATE: _KEPT,
    Plant.REDIRECT: _KEPT,
    Plant.ALT_TOO_SHORT: Fate(None),
    Plant.NOT_HTTP: Fate(None),
    Plant.NOT_FOUND: Fate("not_found"),
    Plant.GONE: Fate("gone"),
    Plant.SERVER_ERROR: Fate("server_error"),
    Plant.DEAD_PORT: Fate("connect_error"),
    Plant.SILENT_HOST: Fate("timeout"),
    Plant.SLOW_BODY: Fate("timeout"),
    Plant.ENDLESS_BODY: Fate("too_large"),
    Plant.REDIRECT_LOOP: Fate("redirect_loop"),
    Plant.REDIRECT_LINK_LOCAL: Fate("refused_address"),
    Plant.HTML_AS_JPEG: Fate("not_an_image"),
    Plant.TRUNCATED_JPEG: Fate("undecodable"),
    Plant.DECOMPRESSION_BOMB: Fate("too_many_pixels"),
    Plant.SMALL_IMAGE: Fate("too_small"),
    Plant.WRONG_LENGTH: Fate("truncated"),
    Plant.ENDLESS_GZIP: Fate("too_large"),
    Plant.OPT_OUT: Fate("opted_out"),
}

# Links of each plant but the matched, mismatched and named ones, which share what is left of the images. The plants
# whose outcome costs a whole timeout, and is asked for again, are few.
COUNTS: dict[Plant, int] = {
    Plant.RELATIVE: 80,
    Plant.BASE: 40,
    Plant.DUPLICATE_WITHIN: 40,
    Plant.DUPLICATE_ACROSS: 40,
    Plant.COPY: 160,
    Plant.TEMPLATE: 24,
    Plant.REDIRECT: 24,
    Plant.ALT_TOO_SHORT: 60,
    Plant.NOT_HTTP: 12,
    Plant.NOT_FOUND: 40,
    Plant.GONE: 12,
    Plant.SERVER_ERROR: 8,
    Plant.DEAD_PORT: 6,
    Plant.SILENT_HOST: 4,
    Plant.SLOW_BODY: 4,
    Plant.ENDLESS_BODY: 3,
    Plant.REDIRECT_LOOP: 6,
    Plant.REDIRECT_LINK_LOCAL: 6,
    Plant.HTML_AS_JPEG: 12,
    Plant.TRUNCATED_JPEG: 8,
    Plant.DECOMPRESSION_BOMB: 3,
    Plant.SMALL_IMAGE: 12,
    Plant.WRONG_LENGTH: 8,
    Plant.ENDLESS_GZIP: 3,
    Plant.OPT_OUT: 12,
}
MISMATCHED_SHARE = 0.25  # of the images that COUNTS leaves
NAME_SHARE = 0.05

# Words of no language, in pairs: CLD3 calls none of the pairs reliable by LAION's rule (a test holds it). Half of such
# names it does call reliably foreign; those were left out.
NAMES: tuple[str, ...] = (
    "Crispaak Crispaux 47",
    "Kaluemi Vespett",
    "Darioaro Tolvaak",
    "Hendemi Teskux",
    "Ludoak Pennil 81",
    "Orenux Sableil",
    "Pennemi Darioaro",
    "Mabroba Braxux 53",
    "Ludoaro Pennund",
    "Teskemi Braxil 19",
    "Braxemi Quilloba",
    "Sableund Crispaina 18",
    "Fenrowemi Vespund 76",
    "Braxina Ludoil",
    "Gorimett Ilvaett",
    "Ilvaina Crispaoba 15",
    "Nymemi Braxaro",
    "Yssak Ludoaro",
    "Darioil Pennux",
    "Vespil Gorimoba",
    "Nymux Teskina 64",
    "Mabrux Teskina",
    "Ilvaina Orenak",
    "Braxak Orenil",
    "Zorvemi Nymina",
    "Zorvil Fenrowemi",
)
