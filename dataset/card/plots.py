"""The plots of README.md, each in a separate SVG file, because the Hub does not show SVG inside the text.

They are the plots of the statistics page in its light colours on white, which are also readable on a dark page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dataset.report.plots import columns, histogram, quantiles, size_grid
from dataset.report.style import LIGHT
from dataset.stats.figures import HISTOGRAM_BINS, Figures
from dataset.stats.listed import ALL

STYLE = (
    "text{{font:11.5px system-ui,'Segoe UI',Roboto,sans-serif;fill:{soft}}}.count{{text-anchor:end}}"
    ".tick{{text-anchor:middle}}.grid{{stroke:{line}}}.fill{{fill:{mark}}}.line0,.line1{{fill:none;stroke:{mark};"
    "stroke-width:2}}.line1{{stroke:{alert};stroke-dasharray:5 3}}.dot0{{fill:{mark}}}.dot1{{fill:{alert}}}"
).format(**LIGHT)
_HEAD = re.compile(r'<svg (?:class="\w+" )?viewBox="0 0 (?P<width>\d+) (?P<height>\d+)"')


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: its file's name, its description, and the SVG file."""

    name: str
    shows: str
    svg: bytes


def draw_plots(figures: Figures) -> Iterator[Plot]:
    """Yield a plot for each figure that has values."""
    total = figures[ALL]
    size = {name: total[name]["quantiles"] for name in ("width", "height")}
    length = [(f"{each['from']}+", each["rows"]) for each in total["text"]["characters"]["ranges"]]
    drawn = {
        "similarity": ("Pairs by similarity", _histogram(total, "similarity")),
        "sizes": ("Pairs by width and height in pixels", size_grid(total["size_grid"])),
        "sides": ("Width (solid) and height (dashed) in pixels, by quantile", quantiles("Width and height", size)),
        "captions": ("Pairs by characters of the caption", columns("Caption length", length)),
        "punsafe": ("Pairs by punsafe", _histogram(total, "punsafe")),
        "pwatermark": ("Pairs by pwatermark", _histogram(total, "pwatermark")),
        "aesthetic": ("Pairs by aesthetic score", _histogram(total, "aesthetic")),
    }
    for name, (shows, svg) in drawn.items():
        if svg:
            yield Plot(f"{name}.svg", shows, standalone(svg))


def _histogram(total: Figures, name: str) -> str:
    return histogram(name, total[name]["histogram"], HISTOGRAM_BINS[name])


def standalone(svg: str) -> bytes:
    """Return an SVG of the statistics page as a file: with its own style, size and background."""
    head = _HEAD.match(svg)
    assert head is not None
    width, height = head["width"], head["height"]
    start = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    opening, _, rest = svg[head.end() :].partition(">")
    background = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    return f"{start}{opening}><style>{STYLE}</style>{background}{rest}\n".encode()
