"""Figures as Markdown, for a dataset's card and the terminal; JSON is the figures themselves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dataset.stats.counts import FLOATS
from dataset.stats.figures import AT_LEAST, Figures
from dataset.stats.listed import ALL
from dataset.stats.markdown import escape, table

LISTED = 20
"""Languages, captions and hosts that are shown; the JSON has more."""
_MAX_TEXT = 56  # characters of a caption that are shown


def markdown(figures: Figures) -> str:
    """Return all tables; if there are several subsets, each has a column."""
    scopes = {ALL: figures[ALL], **(figures["subsets"] if len(figures["subsets"]) > 1 else {})}
    total = figures[ALL]
    quantiles = list(_quantiles(total))
    distinct = [(name, _number(count)) for name, count in total["distinct"].items() if count]
    parts = [
        table(["", *scopes], _overview(scopes)),
        "### Quantiles\n\n" + table(["", *_QUANTILES], quantiles) if quantiles else "",
        "### Languages\n\n" + table(["language", "pairs", "share", "mean similarity"], _languages(total))
        if total["languages"]
        else "",
        f"### Distinct values\n\nStandard error {_percent(figures['distinct_count_relative_error'])}.\n\n"
        + table(["", "distinct"], distinct)
        if distinct
        else "",
        _listed("Most frequent captions", "caption", total["captions"]),
        _listed("Most frequent hosts", "host", total["hosts"]),
        "### Most frequent domains\n\n" + table(["domain", "pairs", "mean punsafe"], _domains(figures["domains"]))
        if figures.get("domains")
        else "",
        f"### Near-duplicates\n\nCosine at least {figures['duplicates']['at']}.\n\n"
        + table(["", "pairs", "share"], duplicate_rows(figures["duplicates"]))
        + "\n"
        + table(["pairs in a group", "groups"], group_size_rows(figures["duplicates"]["groups_by_lowest_size"]))
        if figures.get("duplicates")
        else "",
        "### Links\n\n"
        + table(["state", "links", "share"], _states(figures["funnel"]["states"]))
        + "\n"
        + table(["outcome", "links", "share"], _shares(figures["funnel"]["outcomes"]))
        if "funnel" in figures
        else "",
        "### Pairs\n\n" + table(["verdict", "pairs", "share"], _shares(figures["funnel"]["verdicts"]))
        if figures.get("funnel", {}).get("verdicts")
        else "",
    ]
    return "\n".join(part for part in parts if part)


def duplicate_rows(found: Figures) -> Iterable[Sequence[str]]:
    """Yield how many pairs represent a group, and how many are members by kind, with their shares."""
    counts = {"representatives": found["representatives"], **found["members"]}
    for name, count in counts.items():
        yield name, _number(count), _percent(count / found["rows"] if found["rows"] else None)


def group_size_rows(groups: Mapping[str, int]) -> Iterable[Sequence[str]]:
    """Yield sizes of groups, and how many groups have them."""
    for lowest, count in groups.items():
        highest = 2 * int(lowest) - 1
        yield lowest if highest == int(lowest) else f"{lowest}–{highest}", _number(count)


_QUANTILES = ("0.05", "0.25", "0.50", "0.75", "0.95")


def _overview(scopes: Mapping[str, Figures]) -> Iterable[Sequence[str]]:
    yield "pairs", *(_number(each["rows"]) for each in scopes.values())
    for side in AT_LEAST:
        yield (
            f"both sides ≥ {side}",
            *(_number(each["sizes"]["both_at_least"][str(side)]["rows"]) for each in scopes.values()),
        )
    yield "either side ≥ 1024", *(_number(each["sizes"]["either_at_least"]["1024"]["rows"]) for each in scopes.values())
    yield "mean text length", *(_plain(each["text"]["characters"]["mean"], 2) for each in scopes.values())
    yield "mean similarity", *(_plain(each["similarity"]["mean"], 4) for each in scopes.values())
    yield "unsafe (> 0.5)", *(_percent(each["unsafe"]["share"]) for each in scopes.values())
    yield "watermark (> 0.8)", *(_percent(each["watermark"]["share"]) for each in scopes.values())


def _quantiles(figures: Figures) -> Iterable[Sequence[str]]:
    named: dict[str, tuple[Figures, int | None]] = {
        "width": (figures["width"], None),
        "height": (figures["height"], None),
        "text, characters": (figures["text"]["characters"], None),
        "text, bytes": (figures["text"]["bytes"], None),
        **{name: (figures[name], spec.digits) for name, spec in FLOATS.items()},
    }
    for name, (each, digits) in named.items():
        if each["known"]:
            yield name, *(_plain(each["quantiles"][quantile], digits) for quantile in _QUANTILES)


def _languages(figures: Figures) -> Iterable[Sequence[str]]:
    languages = figures["languages"]
    for each in languages[:LISTED]:
        mean = _plain(each["similarity"]["mean"], 4)
        yield _text(each["language"] or "none"), _number(each["rows"]), _percent(each["share"]), mean
    rest = languages[LISTED:]
    if rest:
        share = sum(each["share"] for each in rest)
        yield f"{len(rest)} others", _number(sum(each["rows"] for each in rest)), _percent(share), ""


def _listed(heading: str, name: str, listed: Figures) -> str:
    repeated = [each for each in listed["values"][:LISTED] if each["rows"] > 1]
    if not repeated:
        return ""
    rows = [(_text(each["value"]), _number(each["rows"])) for each in repeated]
    return f"### {heading}\n\n" + table([name, "pairs"], rows)


def _domains(domains: Sequence[Figures]) -> Iterable[Sequence[str]]:
    for each in domains[:LISTED]:
        yield _text(each["name"]), _number(each["rows"]), _plain(each["mean_punsafe"], 4)


def _states(states: Mapping[str, Figures]) -> Iterable[Sequence[str]]:
    for name, each in states.items():
        yield name.replace("_", " "), _number(each["rows"]), _percent(each["share"])


def _shares(counts: Mapping[str, int]) -> Iterable[Sequence[str]]:
    whole = sum(counts.values())
    for name, count in counts.items():
        yield name.replace("_", " "), _number(count), _percent(count / whole)


def _text(value: str) -> str:
    """Return an untrusted text as one cell, without markup and line breaks, and not too long."""
    line = " ".join(value.split())
    return escape(line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 1] + "…") or "(empty)"


def _number(value: int) -> str:
    return f"{value:,}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _plain(value: Any, digits: int | None = None) -> str:
    """Return a figure as text, a float with the number of digits with which its column is counted."""
    if value is None:
        return "–"
    return f"{value:,}" if digits is None else f"{value:,.{digits}f}"
