"""Compute figures from counts; the JSON contains them, and Markdown and the page print them. Pure functions of
`Counts`.

Quantiles are by nearest rank: the smallest value that at least p percent of the known values do not exceed. Figures of
floats are rounded to the step at which the column is counted. A share is relative to the rows whose value is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dataset.pictures.outcomes import Outcome
from dataset.stats.counts import (
    ASPECT_EDGES,
    COLUMNS,
    DISTINCT,
    FLOATS,
    LANGUAGE_BINS,
    THRESHOLDS,
    Counts,
    IntArray,
    LanguageCounts,
)
from dataset.stats.domains import Domain
from dataset.stats.duplicates import Duplicates
from dataset.stats.funnel import Funnel
from dataset.stats.gather import Gathered
from dataset.stats.hyperloglog import RELATIVE_ERROR, estimate
from dataset.stats.listed import ALL, Listed

PERCENTILES = tuple(range(5, 100, 5))
AT_LEAST = (256, 336, 512, 1024)
AT_MOST = (128, 64, 32)
SIZE_RANGES = (0, 128, 256, 512, 1024)
TEXT_RANGES = (0, 25, 50, 100, 150, 250)
LONG_TEXT = 100
ASPECT_NAMES = ("1:3", "1:2", "2:3", "3:4", "4:5", "1:1", "5:4", "4:3", "3:2", "2:1", "3:1")
HISTOGRAM_BINS = {"similarity": 0.01, "pwatermark": 0.02, "punsafe": 0.02, "aesthetic": 0.1}

Figures = dict[str, Any]


def all_figures(
    gathered: Gathered,
    funnel: Funnel | None = None,
    domains: Sequence[Domain] | None = None,
    duplicates: Duplicates | None = None,
) -> Figures:
    """Return the figures of all rows, of each subset, of a run's funnel and a release's domains and near-duplicates."""
    scopes = {scope: _scope_figures(counts, gathered.listed[scope]) for scope, counts in gathered.counts.items()}
    total = scopes.pop(ALL)
    named = {scope: figures for scope, figures in scopes.items() if scope}
    return {
        "rows": total["rows"],
        "distinct_count_relative_error": round(RELATIVE_ERROR, 4),
        ALL: total,
        "subsets": named,
        **({} if funnel is None else {"funnel": funnel_figures(funnel)}),
        **({} if domains is None else {"domains": [asdict(domain) for domain in domains]}),
        **({} if duplicates is None else {"duplicates": _duplicates(duplicates)}),
    }


def _duplicates(found: Duplicates) -> Figures:
    return {**asdict(found), "representatives_share": share(found.representatives, found.rows)}


def funnel_figures(funnel: Funnel) -> Figures:
    """Return the figures of a run's links and pairs, the most frequent outcome first."""
    return {
        "outcomes": _ordered(funnel.outcomes),
        "states": {name: _with_share(links, funnel.outcomes.total()) for name, links in funnel.states.items()},
        "attempts_made_again": _ordered(funnel.waiting),
        "opted_out": _with_share(funnel.outcomes[Outcome.OPTED_OUT], funnel.outcomes.total()),
        "verdicts": _ordered(funnel.verdicts),
        "fetched_by_language": _ordered(funnel.fetched_by_language),
        "kept_by_language": _ordered(funnel.kept_by_language),
    }


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _scope_figures(counts: Counts, listed: Mapping[str, Listed]) -> Figures:
    arrays = counts.arrays
    return {
        "rows": counts.rows,
        "columns": _columns(counts),
        "sizes": _sizes(counts),
        "width": {**_integers(arrays["width"]), "ranges": _ranges(arrays["width"], SIZE_RANGES)},
        "height": {**_integers(arrays["height"]), "ranges": _ranges(arrays["height"], SIZE_RANGES)},
        "aspect": _aspect(arrays["aspect"]),
        "size_grid": _size_grid(arrays["size_grid"]),
        "text": _text(counts),
        **{name: _floats(counts, name) for name in FLOATS},
        "unsafe": _above(counts, "punsafe"),
        "watermark": _above(counts, "pwatermark"),
        "languages": _languages(counts),
        "distinct": {name: estimate(counts.distinct[name]) for name in DISTINCT},
        "captions": _listed(listed["TEXT"]),
        "hosts": _listed(listed["host"]),
    }


def nearest_rank(counts: IntArray, percent: int) -> int | None:
    """Return the index of the `percent` quantile in counts per value; None when there are none."""
    total = int(counts.sum())
    rank = -(-total * percent // 100)  # exact; the product of floats could be just above an integer
    return int(np.searchsorted(np.cumsum(counts), max(rank, 1))) if total else None


def share(part: int, whole: int) -> float | None:
    """Return the share of a part in a whole, rounded to 6 digits; None if the whole is 0."""
    return round(part / whole, 6) if whole else None


def _columns(counts: Counts) -> Figures:
    """For each column that any file has: rows in files with the column, nulls and NaNs."""
    found = {}
    for name, (rows, nulls, nans) in zip(COLUMNS, counts.arrays["columns"].tolist(), strict=True):
        if rows:
            found[name] = {"rows": rows, "null": nulls, "nan": nans}
    return found


def _sizes(counts: Counts) -> Figures:
    shorter, longer = counts.arrays["shorter"], counts.arrays["longer"]
    known = int(shorter.sum())
    return {
        "known": known,
        "both_at_least": {str(side): _with_share(int(shorter[side:].sum()), known) for side in AT_LEAST},
        "either_at_least": {str(side): _with_share(int(longer[side:].sum()), known) for side in AT_LEAST},
        "both_at_most": {str(side): _with_share(int(longer[: side + 1].sum()), known) for side in AT_MOST},
        "either_at_most": {str(side): _with_share(int(shorter[: side + 1].sum()), known) for side in AT_MOST},
    }


def _with_share(rows: int, known: int) -> Figures:
    return {"rows": rows, "share": share(rows, known)}


def _integers(counts: IntArray) -> Figures:
    return {
        "known": int(counts.sum()),
        "quantiles": {f"{percent / 100:.2f}": nearest_rank(counts, percent) for percent in PERCENTILES},
    }


def _ranges(counts: IntArray, edges: Sequence[int]) -> list[Figures]:
    """Rows with edges[i] ≤ value < edges[i + 1]; the last range has no end."""
    ends = [*edges[1:], len(counts)]
    known = int(counts.sum())
    return [
        {"from": low, "to": high if high < len(counts) else None, **_with_share(int(counts[low:high].sum()), known)}
        for low, high in zip(edges, ends, strict=True)
    ]


def _text(counts: Counts) -> Figures:
    characters, text_bytes = counts.arrays["characters"], counts.arrays["text_bytes"]
    sums = counts.arrays["text_sums"].tolist()
    known = int(characters.sum())
    return {
        "characters": {
            **_integers(characters),
            "mean": round(sums[0] / known, 2) if known else None,
            "ranges": _ranges(characters, TEXT_RANGES),
            f"at_least_{LONG_TEXT}": _with_share(int(characters[LONG_TEXT:].sum()), known),
        },
        "bytes": {**_integers(text_bytes), "mean": round(sums[1] / known, 2) if known else None},
    }


def _floats(counts: Counts, name: str) -> Figures:
    spec, bins = FLOATS[name], counts.arrays[name]
    origin = round(spec.low * spec.steps)

    def value(place: int | None) -> float | None:
        return None if place is None else round((place + origin) / spec.steps, spec.digits)

    known = int(bins.sum())
    filled = np.flatnonzero(bins)
    return {
        "known": known,
        "min": value(int(filled[0])) if known else None,
        "max": value(int(filled[-1])) if known else None,
        "mean": round((int(bins @ np.arange(len(bins))) / known + origin) / spec.steps, spec.digits) if known else None,
        "quantiles": {f"{percent / 100:.2f}": value(nearest_rank(bins, percent)) for percent in PERCENTILES},
        "histogram": _histogram(name, bins),
    }


def _histogram(name: str, bins: IntArray) -> list[Figures]:
    """Rows by bins of HISTOGRAM_BINS; a bin includes its lower edge, the last one also its upper edge."""
    spec, width = FLOATS[name], HISTOGRAM_BINS[name]
    per_bin = round(width * spec.steps)
    coarse = np.add.reduceat(bins[:-1], np.arange(0, len(bins) - 1, per_bin))
    coarse[-1] += bins[-1]
    return [
        {"from": round(spec.low + at * width, 2), "rows": int(coarse[at])} for at in np.flatnonzero(coarse).tolist()
    ]


def _above(counts: Counts, column: str) -> Figures:
    known = int(counts.arrays[column].sum())
    rows = int(counts.arrays["above"][list(THRESHOLDS).index(column)])
    return {"above": THRESHOLDS[column], "known": known, **_with_share(rows, known)}


def _aspect(buckets: IntArray) -> list[Figures]:
    """Rows by width : height; a bucket includes its lower edge."""
    known = int(buckets.sum())
    names = [None, *ASPECT_NAMES, None]
    return [
        {"from": names[at], "to": names[at + 1], **_with_share(int(rows), known)} for at, rows in enumerate(buckets)
    ]


def _size_grid(grid: IntArray) -> list[list[int]]:
    """Return [width, height, rows] of the cells with rows: quarter octaves, 2^(n/4) ≤ side < 2^((n+1)/4)."""
    return [[int(width), int(height), int(grid[width, height])] for width, height in np.argwhere(grid)]


def _languages(counts: Counts) -> list[Figures]:
    ordered = sorted(counts.languages.items(), key=lambda item: (-item[1].rows, item[0]))
    whole = sum(each.rows for each in counts.languages.values())
    return [{"language": name or None, **_with_share(each.rows, whole), **_similarity(each)} for name, each in ordered]


def _similarity(counts: LanguageCounts) -> Figures:
    known = int(counts.similarity.sum())
    quantiles = {percent: nearest_rank(counts.similarity, percent) for percent in (10, 50, 90)}
    return {
        "similarity": {
            "mean": round(counts.similarity_sum / known / FLOATS["similarity"].steps, 4) if known else None,
            **{
                f"{percent / 100:.2f}": None if place is None else round((place - LANGUAGE_BINS // 2) / 100, 2)
                for percent, place in quantiles.items()
            },
        }
    }


def _listed(listed: Listed) -> Figures:
    return {
        "values": [{"value": text, "rows": rows} for text, rows in listed.values],
        "others_at_most": listed.others_at_most,
    }


assert len(ASPECT_NAMES) == len(ASPECT_EDGES)
