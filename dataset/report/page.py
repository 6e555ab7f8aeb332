"""The page of the report: findings in, one string of HTML out; no file, no clock, no script.

Charts are SVG with CSS classes, so light and dark come from the reader's system. A colour never speaks alone: what is
kept and what is dropped also stand in words.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from dataset.report.chart import Histogram, draw_histograms
from dataset.report.style import STYLE

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SHOWN_ROWS = 14  # of a bar chart; the rest is summed


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of a run, with the seconds in which it was at work."""

    stage: str
    jobs: int
    rows_in: int
    rows_out: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """Something that was measured beside the run: what, its value, and on what."""

    what: str
    value: str
    on: str


MEASURED_NOTE = "Of the tags and the model, on pictures that neither was trained on."


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A sample as it is shown; `size` is the original's (width, height) in pixels."""

    jpeg: bytes
    caption: str
    similarity: float
    language: str | None
    url: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the page says."""

    title: str
    shards: int
    parts: int
    outcomes: Counter[str]  # of links that are finished
    waiting: Counter[str]  # of links that will be tried again, by the reason why
    fetched_by_language: Counter[str]  # '' is none
    kept_by_language: Counter[str]
    verdicts: Counter[str]
    histograms: Sequence[Histogram]
    kept: Sequence[Thumbnail]
    dropped: Sequence[Thumbnail]
    stages: Sequence[StageRow]
    measured: Sequence[MeasuredRow] = ()


def render_page(findings: Findings) -> str:
    """Write the whole page."""
    sections = [
        _tiles(findings),
        _section("Stages", _stages(findings.stages)) if findings.stages else "",
        _section("Similarity", draw_histograms(findings.histograms), LEGEND) if findings.histograms else "",
        _section("Measured", _measured(findings.measured), MEASURED_NOTE) if findings.measured else "",
        '<div class="columns">',
        _section("Outcomes", *_outcomes(findings)),
        _section("Languages", _bars(findings.fetched_by_language, findings.kept_by_language), LANGUAGE_LEGEND),
        "</div>",
        *(_galleries(findings) if findings.parts else [_section("Pairs", f'<p class="note">{NOT_SCORED}</p>')]),
    ]
    title = escape(findings.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(CONTENT_POLICY)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<header><h1>{title}</h1><p>{findings.shards:,} shards and {findings.parts:,} parts, as the manifest "
        f"lists them</p></header>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _galleries(findings: Findings) -> Sequence[str]:
    return (
        _section("Kept", _gallery(findings.kept), "A random draw, the most similar first."),
        _section("Dropped", _gallery(findings.dropped), _dropped_note(findings.verdicts["undecodable"])),
    )


def _section(heading: str, body: str, note: str = "") -> str:
    said = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{heading}</h2>{said}{body}</section>"


def _tiles(findings: Findings) -> str:
    links, fetched = findings.outcomes.total(), findings.outcomes["success"]
    scored, kept = findings.verdicts.total(), findings.verdicts["kept"]
    tiles = [
        (f"{links:,}", "links finished"),
        (f"{fetched:,}", f"pictures fetched, {_percent(fetched, links)} of the links"),
        (f"{scored:,}", f"pairs scored, {_percent(scored, fetched)} of the pictures"),
        (f"{kept:,}", f"pairs kept, {_percent(kept, scored)} of those scored"),
    ]
    return '<div class="tiles">' + "".join(f"<div><b>{n}</b><span>{of}</span></div>" for n, of in tiles) + "</div>"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _stages(stages: Sequence[StageRow]) -> str:
    heads = ("stage", "jobs", "rows in", "rows out", "busy seconds", "rate, rows in/s")
    rows = "".join(
        f"<tr><th>{escape(row.stage)}</th><td>{row.jobs:,}</td><td>{row.rows_in:,}</td><td>{row.rows_out:,}</td>"
        f"<td>{row.seconds:,.1f}</td><td>{_rate(row)}</td></tr>"
        for row in stages
    )
    return (
        f"<table><thead><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _measured(rows: Sequence[MeasuredRow]) -> str:
    body = "".join(
        f"<tr><th>{escape(row.what)}</th><td>{escape(row.value)}</td><td>{escape(row.on)}</td></tr>" for row in rows
    )
    return f"<table><thead><tr><th>what</th><th>value</th><th>on</th></tr></thead><tbody>{body}</tbody></table>"


def _rate(row: StageRow) -> str:
    return f"{row.rows_in / row.seconds:,.0f}" if row.seconds > 0 else "–"


def _outcomes(findings: Findings) -> tuple[str, str]:
    """Draw how links failed; beside the successes, said in words, the failures would be too short to compare."""
    failed = {name: count for name, count in findings.outcomes.items() if name != "success"}
    note = (
        f"{findings.outcomes['success']:,} of {findings.outcomes.total():,} links gave a picture; the others ended so."
    )
    if findings.waiting:
        reasons = sorted(findings.waiting.items(), key=lambda item: (-item[1], item[0]))
        again = ", ".join(f"{escape(name.replace('_', ' '))} {count:,}" for name, count in reasons)
        note += f" Attempts that were made again are not among them: {again}."
    return _bars(failed, {}), note


def _bars(counts: Mapping[str, int], inner: Mapping[str, int]) -> str:
    """Draw horizontal bars, the longest first; `inner` fills part of each."""
    if not counts:
        return '<p class="note">None.</p>'
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered[:SHOWN_ROWS] if len(ordered) > SHOWN_ROWS + 1 else ordered
    rest = [name for name, _ in ordered[len(shown) :]]
    bars = [_bar(name, count, inner.get(name, 0), ordered[0][1]) for name, count in shown]
    if rest:
        count, filled = sum(counts[name] for name in rest), sum(inner.get(name, 0) for name in rest)
        bars.append(_bar(f"{len(rest)} others", count, filled, ordered[0][1]))
    return f'<div class="bars">{"".join(bars)}</div>'


def _bar(name: str, count: int, filled: int, longest: int) -> str:
    label = escape(name.replace("_", " ")) or "none"
    numbers = f"{filled:,} of {count:,}" if filled else f"{count:,}"
    fill = f'<i style="width:{100 * filled / count:.2f}%"></i>' if filled else ""
    bar = f'<span class="bar" style="width:{100 * count / longest:.2f}%">{fill}</span>'
    return (
        f'<div><span class="name">{label}</span><span class="track">{bar}</span><span class="n">{numbers}</span></div>'
    )


def _dropped_note(undecodable: int) -> str:
    note = "A random draw, those nearest to the threshold first."
    return note if not undecodable else f"{note} Not shown: {undecodable:,} pictures that could not be decoded."


def _gallery(thumbnails: Sequence[Thumbnail]) -> str:
    if not thumbnails:
        return '<p class="note">None.</p>'
    return f'<div class="gallery">{"".join(_card(thumbnail) for thumbnail in thumbnails)}</div>'


def _card(thumbnail: Thumbnail) -> str:
    data = base64.b64encode(thumbnail.jpeg).decode("ascii")
    width, height = thumbnail.size
    about = f"{escape(thumbnail.language or 'none')} · {width} × {height}"
    caption = escape(thumbnail.caption)
    return (
        f'<figure title="{escape(thumbnail.url)}"><img src="data:image/jpeg;base64,{data}" alt="{caption}" '
        f'loading="lazy"><b>{thumbnail.similarity:.3f}</b><small>{about}</small><p dir="auto">{caption}</p></figure>'
    )


NOT_SCORED = "No part is listed: the pairs have not been scored yet, or the run has no filter and ends with its shards."
LEGEND = (
    '<span class="key kept"></span>kept <span class="key dropped"></span>dropped; cosine of picture and caption, '
    "pairs for each 0.02"
)
LANGUAGE_LEGEND = (
    '<span class="key kept"></span>pairs kept of <span class="key dropped"></span>pictures fetched, by the language of '
    "the caption"
)
