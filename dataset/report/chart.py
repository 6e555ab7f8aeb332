"""Histograms of similarity as SVG: dropped and kept pairs, with the threshold between them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from dataset.stats.funnel import BIN_EDGES, Funnel

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 230, 44, 30, 24  # sizes of a chart, in its own pixels


@dataclass(frozen=True, slots=True)
class Histogram:
    """Similarities of one model: counts (B,) int64 of kept and dropped pairs between edges (B + 1,) float64."""

    model: str
    threshold: float
    edges: npt.NDArray[np.float64]
    kept: npt.NDArray[np.int64]
    dropped: npt.NDArray[np.int64]


def histograms(funnel: Funnel) -> list[Histogram]:
    """Return one histogram per model that scored pairs."""
    return [
        Histogram(model.name, model.threshold, BIN_EDGES, funnel.kept_bins[model], dropped)
        for model, dropped in sorted(funnel.dropped_bins.items())
    ]


def draw_histograms(drawn: Sequence[Histogram]) -> str:
    """Draw one figure per model."""
    return f'<div class="columns">{"".join(_figure(histogram) for histogram in drawn)}</div>'


def _figure(histogram: Histogram) -> str:
    kept, dropped = int(histogram.kept.sum()), int(histogram.dropped.sum())
    said = f"<b>{escape(histogram.model)}</b> {kept:,} kept, {dropped:,} dropped at {histogram.threshold:g}"
    return f"<figure><figcaption>{said}</figcaption>{_chart(histogram)}</figure>"


def _chart(histogram: Histogram) -> str:
    """Draw the bins that are not empty, and the threshold."""
    total = histogram.kept + histogram.dropped
    filled = np.flatnonzero(total)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, len(total))
    low = min(float(histogram.edges[first]), histogram.threshold - 0.1)
    high = max(float(histogram.edges[last]), histogram.threshold + 0.1)
    most = max(int(total.max()), 1)

    def x(similarity: float) -> float:
        return LEFT + (similarity - low) / (high - low) * (WIDTH - LEFT - 8)

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - count / most * (HEIGHT - BOTTOM - TOP)

    marks = [*_grid(most, y), *_ticks(low, high, x)]
    for bin_number in range(first, last):
        left, right = x(float(histogram.edges[bin_number])), x(float(histogram.edges[bin_number + 1]))
        dropped, both = int(histogram.dropped[bin_number]), int(total[bin_number])
        said = f"{histogram.edges[bin_number]:.2f} to {histogram.edges[bin_number + 1]:.2f}: {both:,}"
        for kind, base, top in (("dropped", 0, dropped), ("kept", dropped, both)):
            if top > base:
                marks.append(
                    f'<rect class="{kind}" x="{left + 0.5:.1f}" y="{y(top):.1f}" width="{right - left - 1:.1f}" '
                    f'height="{y(base) - y(top):.1f}"><title>{said}</title></rect>'
                )
    at = x(histogram.threshold)
    marks.append(f'<line class="threshold" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{HEIGHT - BOTTOM}"/>')
    marks.append(f'<text class="said" x="{at:.1f}" y="{TOP - 12}">threshold {histogram.threshold:g}</text>')
    label = escape(f"Histogram of similarity, {histogram.model}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(marks)}</svg>'


def _grid(most: int, y: Callable[[float], float]) -> Iterator[str]:
    step = round_step(most / 4)
    for count in range(0, most + 1, step):
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(count):.1f}" y2="{y(count):.1f}"/>'
        yield f'<text class="count" x="{LEFT - 6}" y="{y(count) + 4:.1f}">{count:,}</text>'


def _ticks(low: float, high: float, x: Callable[[float], float]) -> Iterator[str]:
    step = 0.1 if high - low < 0.95 else 0.2
    for tick in range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1):
        yield f'<text class="tick" x="{x(tick * step):.1f}" y="{HEIGHT - 10}">{tick * step:.1f}</text>'


def round_step(about: float) -> int:
    """Round up to 1, 2 or 5 times a power of ten."""
    scale = int(10 ** np.floor(np.log10(max(about, 1))))
    return next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= about)
