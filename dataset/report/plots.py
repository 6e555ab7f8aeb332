"""Plots of the statistics page as SVG with CSS classes: histograms, quantiles, the grid of sizes, languages.

Each shape has its numbers in a `title`, which browsers show on hover and screen readers read.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dataset.report.chart import round_step

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 220, 52, 12, 14, 30  # sizes of a plot, in its own pixels
GRID_LEFT, GRID_BOTTOM, GRID_PIXELS = 48, 310, 300
SMALLEST = 16  # quarter octaves: sides below 16 pixels are drawn as 16


def histogram(
    label: str, bins: Sequence[Mapping[str, Any]], width: float, digits: int = 2, mark: float | None = None
) -> str:
    """Draw rows by bins of `width`, given as {"from", "rows"}; empty bins may be missing. `mark` is a threshold."""
    if not bins:
        return ""
    low, high = bins[0]["from"], bins[-1]["from"] + width
    most = max(each["rows"] for each in bins)

    def x(value: float) -> float:
        return float(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT))

    marks = [*_grid(most), *_ticks(low, high, x(low), x(high))]
    for each in bins:
        left, right = x(each["from"]), x(each["from"] + width)
        gap = min(0.5, (right - left) / 8)
        said = f"{each['from']:.{digits}f} to {each['from'] + width:.{digits}f}: {each['rows']:,}"
        marks.append(_rect(left + gap, _y(each["rows"], most), right - left - 2 * gap, each["rows"], most, said))
    if mark is not None and low <= mark <= high:
        place = f'x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
        marks.append(
            f'<line class="threshold" {place}/><text class="said" x="{x(mark):.1f}" y="{TOP - 4}">{mark:g}</text>'
        )
    return _svg(label, marks)


def columns(label: str, bars: Sequence[tuple[str, int]]) -> str:
    """Draw one column per name."""
    most = max((rows for _, rows in bars), default=0)
    if not most:
        return ""
    step = (WIDTH - LEFT - RIGHT) / len(bars)
    marks = _grid(most)
    for at, (name, rows) in enumerate(bars):
        left = LEFT + at * step
        marks.append(_rect(left + step * 0.08, _y(rows, most), step * 0.84, rows, most, f"{name}: {rows:,}"))
        marks.append(_tick(left + step / 2, name))
    return _svg(label, marks)


def quantiles(label: str, lines: Mapping[str, Mapping[str, float | None]]) -> str:
    """Draw values by quantile, on a logarithmic scale; one line per name, at most two."""
    points = {name: [(float(q), v) for q, v in each.items() if v is not None] for name, each in lines.items()}
    values = [max(value, 1) for each in points.values() for _, value in each]
    if not values:
        return ""
    low, high = np.floor(np.log2(min(values))), max(np.ceil(np.log2(max(values))), np.floor(np.log2(min(values))) + 1)

    def y(value: float) -> float:
        return float(HEIGHT - BOTTOM - (np.log2(max(value, 1)) - low) / (high - low) * (HEIGHT - BOTTOM - TOP))

    def x(quantile: float) -> float:
        return LEFT + quantile * (WIDTH - LEFT - RIGHT)

    marks = [mark for octave in range(int(low), int(high) + 1) for mark in _level(y(2.0**octave), f"{2**octave:,}")]
    marks += [_tick(x(tick / 10), f"{10 * tick} %") for tick in range(1, 10, 2)]
    for at, (name, each) in enumerate(points.items()):
        path = " ".join(f"{x(quantile):.1f},{y(value):.1f}" for quantile, value in each)
        marks.append(f'<polyline class="line{at}" points="{path}"/>')
        for quantile, value in each:
            said = f"{name}, {100 * quantile:.0f} %: {value:,}"
            place = f'cx="{x(quantile):.1f}" cy="{y(value):.1f}"'
            marks.append(f'<circle class="dot{at}" {place} r="3"><title>{escape(said)}</title></circle>')
    return _svg(label, marks)


def size_grid(cells: Sequence[Sequence[int]]) -> str:
    """Draw rows by width and height, [width, height, rows] in quarter octaves; opacity grows with the rows."""
    if not cells:
        return ""
    last = max(SMALLEST + 4, max(max(width, height) for width, height, _ in cells))
    side, most = GRID_PIXELS / (last - SMALLEST + 1), max(rows for _, _, rows in cells)
    marks = []
    for width, height, rows in cells:
        across, up = max(width, SMALLEST) - SMALLEST, max(height, SMALLEST) - SMALLEST
        low, high = (round(2 ** (each / 4)) for each in (width, height))
        opacity = 0.06 + 0.94 * (rows / most) ** 0.5
        place = f'x="{GRID_LEFT + across * side:.2f}" y="{GRID_BOTTOM - (up + 1) * side:.2f}"'
        marks.append(
            f'<rect class="fill" {place} width="{side:.2f}" height="{side:.2f}" opacity="{opacity:.3f}">'
            f"<title>from {low} × {high} pixels: {rows:,}</title></rect>"
        )
    for octave in range(SMALLEST // 4, last // 4 + 1):
        marks += _octave(octave, (4 * octave - SMALLEST) * side)
    marks.append(f'<text class="tick" x="{GRID_LEFT + GRID_PIXELS / 2}" y="{GRID_BOTTOM + 36}">width</text>')
    box = f'class="square" viewBox="0 0 {GRID_LEFT + GRID_PIXELS + 8} {GRID_BOTTOM + 42}"'
    return f'<svg {box} role="img" aria-label="Pairs by width and height">{"".join(marks)}</svg>'


def _octave(octave: int, at: float) -> list[str]:
    """Draw a line across and a line up at `at` pixels from the grid's corner."""
    x, y = GRID_LEFT + at, GRID_BOTTOM - at
    marks = [
        f'<line class="grid" x1="{GRID_LEFT}" x2="{GRID_LEFT + GRID_PIXELS}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{GRID_BOTTOM - GRID_PIXELS}" y2="{GRID_BOTTOM}"/>',
        f'<text class="count" x="{GRID_LEFT - 6}" y="{y + 4:.1f}">{2**octave:,}</text>',
    ]
    return (
        marks if octave % 2 else [*marks, f'<text class="tick" x="{x:.1f}" y="{GRID_BOTTOM + 18}">{2**octave:,}</text>']
    )


def _svg(label: str, marks: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(marks)}</svg>'


def _y(rows: float, most: int) -> float:
    return float(HEIGHT - BOTTOM - rows / most * (HEIGHT - BOTTOM - TOP))


def _rect(left: float, top: float, width: float, rows: int, most: int, said: str) -> str:
    height = max(_y(0, most) - top, 0.6 if rows else 0)  # so that one pair among millions is still visible
    return (
        f'<rect class="fill" x="{left:.1f}" y="{_y(0, most) - height:.1f}" width="{max(width, 0.6):.1f}" '
        f'height="{height:.1f}"><title>{escape(said)}</title></rect>'
    )


def _grid(most: int) -> list[str]:
    levels = range(0, most + 1, round_step(most / 4))
    return [mark for count in levels for mark in _level(_y(count, most), short(count))]


def _level(y: float, name: str) -> tuple[str, str]:
    """Draw a line across, named on the left."""
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line, f'<text class="count" x="{LEFT - 6}" y="{y + 4:.1f}">{name}</text>'


def _tick(x: float, name: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 10}">{escape(name)}</text>'


def _ticks(low: float, high: float, left: float, right: float) -> list[str]:
    step, digits = next(
        (step, digits)
        for step, digits in ((0.02, 2), (0.05, 2), (0.1, 1), (0.2, 1), (0.5, 1), (1, 0), (2, 0))
        if (high - low) / step < 9
    )
    ticks = range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)
    return [
        _tick(left + (tick * step - low) / (high - low) * (right - left), f"{tick * step:.{digits}f}") for tick in ticks
    ]


def short(count: int) -> str:
    """Write a count in at most five characters: 950, 12k, 1.5M, 2B."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)
