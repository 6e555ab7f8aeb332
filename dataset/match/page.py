"""The page of matches: copies first, each with the row that it repeats, the shared mask and the difference."""

from collections.abc import Mapping
from html import escape

import numpy as np
import numpy.typing as npt

from dataset.match.match import Matches
from dataset.match.pixels import Floats
from dataset.match.verdicts import COPIES, Match, Shown, Verdict
from dataset.pictures.jpeg import encode_jpeg
from dataset.report.html import Thumbnail, data_url, document, gallery, section, table, tiles

SHOWN_ROWS = 200
_MEANING = {
    Verdict.VERBATIM: "the pixels are a row's",
    Verdict.TEMPLATE: "repeats what all members of a group share",
    Verdict.RETRIEVED: "the pixels are nearly a row's",
    Verdict.CANDIDATE: "near by embedding; the row's picture is not kept, so nothing is proven",
    Verdict.NONE: "no copy was found",
}


def render(title: str, matches: Matches, null: Matches | None) -> str:
    """Return the page; `null` are the matches of unrelated pictures."""
    share, low, high = matches.copy_rate
    shown = [
        (f"{len(matches.matches):,}", "pictures"),
        (f"{sum(one.verdict in COPIES for one in matches.matches):,}", "copies: verbatim, template or retrieved"),
        (f"{100 * share:.2f} %", f"of the pictures; 95 % interval {100 * low:.2f} % to {100 * high:.2f} %"),
    ]
    if null is not None:
        shown.append((f"{100 * null.copy_rate[2]:.2f} %", f"errors at most: {len(null.matches):,} unrelated pictures"))
    verdicts = [(one.value, f"{matches.counts[one.value]:,}", _MEANING[one]) for one in Verdict]
    heads = ("verdict", "pictures", "meaning")
    sections = [tiles(shown), section("Verdicts", table(heads, verdicts), _NULL if null is None else "")]
    sections += [_copy(one, matches.shown[one.picture]) for one in matches.matches if one.picture in matches.shown]
    rows = [_row(one) for one in matches.matches[:SHOWN_ROWS]]
    note = f"The first {SHOWN_ROWS}; matches.parquet has all." if len(matches.matches) > SHOWN_ROWS else ""
    sections.append(section("Pictures", table(_HEADS, rows), note))
    return document(title, "Sorted by verdict and by the size of the group that is repeated", sections)


_NULL = "Without --null, nothing tells how often unrelated pictures are taken for copies."
_HEADS = ("picture", "verdict", "group size", "cosine", "PDQ", "difference", "in the template", "row", "URL", "caption",
          "prompt")  # fmt: skip


def _copy(match: Match, shown: Shown) -> str:
    mask = np.repeat(shown.mask[:, :, None], 3, axis=2).astype(np.float32)
    amplified = np.repeat(np.minimum(1, 4 * shown.aligned.difference)[:, :, None], 3, axis=2)
    aligned = shown.aligned
    pictures = [("generated", aligned.generated), ("nearest row", aligned.original), ("shared by the group", mask),
                ("difference, 4 times", amplified)]  # fmt: skip
    drawn = [_thumbnail(match, name, pixels) for name, pixels in pictures]
    mirrored = ", mirrored" if match.mirrored else ""
    prompt = "; the prompt is a caption of its group" if match.own_prompt else ""
    note = (
        f"{match.verdict.value}{mirrored}; group of {match.group_size:,}; row {match.id}: "
        f"{escape(match.caption or '')}{prompt}"
    )
    return section(escape(match.picture), gallery(drawn), note)


def _thumbnail(match: Match, name: str, pixels: Floats) -> Thumbnail:
    whole: npt.NDArray[np.uint8] = np.ascontiguousarray(np.clip(pixels * 255, 0, 255).astype(np.uint8))
    return Thumbnail(data_url(encode_jpeg(whole, 85)), name, match.rms or 0.0, "difference", match.url or "", None)


def _row(one: Match) -> tuple[str, ...]:
    def number(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    texts = (
        f'<span class="text" dir="auto">{escape(text or "")}</span>' for text in (one.url, one.caption, one.prompt)
    )
    size = "" if one.group_size is None else f"{one.group_size:,}"
    row = "" if one.id is None else str(one.id)
    bits = "same bytes" if one.same_bytes else "" if one.pdq is None else str(one.pdq)
    numbers = (number(one.cosine, 4), bits, number(one.rms), number(one.masked_rms))
    return escape(one.picture), one.verdict.value, size, *numbers, row, *texts


def said(matches: Matches) -> Mapping[str, int]:
    """Return the pictures of each verdict, in the order of the verdicts."""
    return {one.value: matches.counts[one.value] for one in Verdict}
