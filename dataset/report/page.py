"""Render the report: findings in, one string of HTML out; no files, clock or scripts.

Charts are SVG with CSS classes, so light and dark mode follow the reader's system. Nothing is shown by colour alone:
kept and dropped are also written in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dataset.report.chart import draw_histograms, histograms
from dataset.report.html import Thumbnail, bars, document, gallery, percent, section, table, tiles
from dataset.stats.funnel import Funnel


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of a run, with the seconds during which it worked."""

    stage: str
    jobs: int
    rows_in: int
    rows_out: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A measurement: its name, its value, and the data on which it was made."""

    what: str
    value: str
    on: str


MEASURED_NOTE = "Measurements of the tags and the model, on pictures on which neither was trained."


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the page shows."""

    title: str
    shards: int
    parts: int
    funnel: Funnel
    kept: Sequence[Thumbnail]
    dropped: Sequence[Thumbnail]
    stages: Sequence[StageRow]
    measured: Sequence[MeasuredRow] = ()


def render_page(findings: Findings) -> str:
    """Return the whole page."""
    sections = [
        _tiles(findings),
        section("Stages", _stages(findings.stages)) if findings.stages else "",
        section("Similarity", draw_histograms(histograms(findings.funnel)), LEGEND) if findings.parts else "",
        section("Measured", _measured(findings.measured), MEASURED_NOTE) if findings.measured else "",
        '<div class="columns">',
        section("Outcomes", *_outcomes(findings)),
        section(
            "Languages", bars(findings.funnel.fetched_by_language, findings.funnel.kept_by_language), LANGUAGE_LEGEND
        ),
        "</div>",
        *(_galleries(findings) if findings.parts else [section("Pairs", f'<p class="note">{NOT_SCORED}</p>')]),
    ]
    listed = f"{findings.shards:,} shards and {findings.parts:,} parts, as the manifest lists them"
    return document(findings.title, listed, sections)


def _galleries(findings: Findings) -> Sequence[str]:
    return (
        section("Kept", gallery(findings.kept), "A random selection, the most similar first."),
        section("Dropped", gallery(findings.dropped), _dropped_note(findings.funnel.verdicts["undecodable"])),
    )


def _tiles(findings: Findings) -> str:
    links, fetched = findings.funnel.outcomes.total(), findings.funnel.outcomes["success"]
    scored, kept = findings.funnel.verdicts.total(), findings.funnel.verdicts["kept"]
    shown = [
        (f"{links:,}", "links finished"),
        (f"{fetched:,}", f"pictures fetched, {percent(fetched, links)} of the links"),
        (f"{scored:,}", f"pairs scored, {percent(scored, fetched)} of the pictures"),
        (f"{kept:,}", f"pairs kept, {percent(kept, scored)} of those scored"),
    ]
    return tiles(shown)


def _stages(stages: Sequence[StageRow]) -> str:
    heads = ("stage", "jobs", "rows in", "rows out", "busy seconds", "rate, rows in/s")
    rows = (
        (escape(row.stage), f"{row.jobs:,}", f"{row.rows_in:,}", f"{row.rows_out:,}", f"{row.seconds:,.1f}", _rate(row))
        for row in stages
    )
    return table(heads, rows)


def _measured(rows: Sequence[MeasuredRow]) -> str:
    return table(("what", "value", "on"), ((escape(row.what), escape(row.value), escape(row.on)) for row in rows))


def _rate(row: StageRow) -> str:
    return f"{row.rows_in / row.seconds:,.0f}" if row.seconds > 0 else "–"


def _outcomes(findings: Findings) -> tuple[str, str]:
    """Return a chart of the failures and a note about the successes, which would dwarf them in the chart."""
    funnel = findings.funnel
    failed = {name: count for name, count in funnel.outcomes.items() if name != "success"}
    note = (
        f"{funnel.outcomes['success']:,} of {funnel.outcomes.total():,} links gave a picture; "
        "the others ended as shown here."
    )
    if funnel.waiting:
        reasons = sorted(funnel.waiting.items(), key=lambda item: (-item[1], item[0]))
        again = ", ".join(f"{escape(name.replace('_', ' '))} {count:,}" for name, count in reasons)
        note += f" Failures of attempts that were repeated later are not counted: {again}."
    return bars(failed, {}), note


def _dropped_note(undecodable: int) -> str:
    note = "A random selection, sorted by distance from the threshold."
    return note if not undecodable else f"{note} Not shown: {undecodable:,} pictures that could not be decoded."


NOT_SCORED = "No part is listed: the pairs have not been scored yet, or the run has no filter and ends with its shards."
LEGEND = (
    '<span class="key kept"></span>kept <span class="key dropped"></span>dropped; cosine of picture and caption, '
    "pairs for each 0.02"
)
LANGUAGE_LEGEND = (
    '<span class="key kept"></span>pairs kept of <span class="key dropped"></span>pictures fetched, by the language of '
    "the caption"
)
