"""The statistics page: render figures as one self-contained HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from dataset.report.chart import draw_histograms, histograms
from dataset.report.galleries import Bucket
from dataset.report.html import Site, Thumbnail, bars, document, gallery, percent, section, table, tiles
from dataset.report.plots import columns, histogram, quantiles, short, size_grid
from dataset.report.report import ReportError
from dataset.stats.figures import AT_LEAST, AT_MOST, HISTOGRAM_BINS, Figures
from dataset.stats.funnel import Funnel
from dataset.stats.listed import ALL
from dataset.stats.tables import duplicate_rows, group_size_rows

LISTED = 20
"""Captions and hosts; the JSON has more."""
LANGUAGES = 12
FLOAT_TITLES = {
    "similarity": ("Similarity", "Cosine of picture and caption, pairs for each 0.01."),
    "punsafe": ("Unsafe", "Pairs by punsafe, for each 0.02."),
    "pwatermark": ("Watermark", "Pairs by pwatermark, for each 0.02."),
    "aesthetic": ("Aesthetic score", "Pairs for each 0.1."),
}


def write_statistics_page(
    out: Path,
    title: str,
    figures: Figures,
    funnel: Funnel | None = None,
    galleries: Mapping[Bucket, Sequence[Thumbnail]] | None = None,
) -> None:
    """Write the page to a local file.

    Raises: ReportError when it cannot be written.
    """
    try:
        out.write_text(render_statistics(title, figures, funnel, galleries), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"Cannot write {out} ({error.strerror}): name another file.") from error


def render_statistics(
    title: str,
    figures: Figures,
    funnel: Funnel | None = None,
    galleries: Mapping[Bucket, Sequence[Thumbnail]] | None = None,
    *,
    site: Site | None = None,
) -> str:
    """Return the page as HTML; `site` has the other pages of a server."""
    total, subsets = figures[ALL], figures["subsets"]
    sections = [
        _headline(total),
        _subsets({"all": total, **subsets}) if len(subsets) > 1 else "",
        *(_funnel(funnel) if funnel else ()),
        '<div class="columns">',
        *_sizes(total),
        *_texts(total),
        *_floats(total),
        "</div>",
        *_languages(total),
        '<div class="columns">',
        _listed("Most frequent captions", "caption", total["captions"]),
        _listed("Most frequent hosts", "host", total["hosts"]),
        _domains(figures.get("domains", [])),
        _distinct(figures),
        _duplicates(figures.get("duplicates")),
        _nulls(total),
        "</div>",
        *_galleries(galleries or {}),
    ]
    subtitle = f"Statistics of {figures['rows']:,} pairs of a picture and its caption"
    return document(title, subtitle, sections, site=site)


def _headline(total: Figures) -> str:
    side = total["sizes"]["both_at_least"]["256"]
    values = [(short(total["rows"]) if total["rows"] >= 10**7 else f"{total['rows']:,}", "pairs")]
    if side["share"] is not None:
        values.append((f"{100 * side['share']:.1f} %", "of pictures with both sides of 256 pixels or more"))
    if total["text"]["characters"]["mean"] is not None:
        values.append((f"{total['text']['characters']['mean']:,}", "characters in a caption, on average"))
    for name, said in (("unsafe", "unsafe (punsafe above 0.5)"), ("watermark", "with a watermark (above 0.8)")):
        if total[name]["share"] is not None:
            values.append((f"{100 * total[name]['share']:.2f} %", said))
    return tiles(values)


def _subsets(scopes: Mapping[str, Figures]) -> str:
    rows = (
        (
            escape(name),
            f"{each['rows']:,}",
            *(f"{each['sizes']['both_at_least'][str(side)]['rows']:,}" for side in AT_LEAST),
            _share(each["unsafe"]),
            _share(each["watermark"]),
        )
        for name, each in scopes.items()
    )
    heads = ("subset", "pairs", *(f"both ≥ {side}" for side in AT_LEAST), "unsafe", "watermark")
    return section("Subsets", table(heads, rows))


def _funnel(funnel: Funnel) -> Iterable[str]:
    """Draw the outcomes of links and the verdicts on pairs."""
    links, fetched = funnel.outcomes.total(), funnel.outcomes["success"]
    scored, kept = funnel.verdicts.total(), funnel.verdicts["kept"]
    opted_out, states = funnel.outcomes["opted_out"], funnel.states
    unwanted = states["not_wanted"]
    rows = [
        ("links finished", f"{links:,}", ""),
        (f"not wanted, {opted_out:,} opted out", f"{unwanted:,}", f"{percent(unwanted, links)} of links"),
        ("dead", f"{states['dead']:,}", f"{percent(states['dead'], links)} of links"),
        ("changed since the list was made", f"{states['changed']:,}", f"{percent(states['changed'], links)} of links"),
        ("pictures fetched", f"{fetched:,}", f"{percent(fetched, links)} of links"),
        ("pairs scored", f"{scored:,}", f"{percent(scored, fetched)} of pictures"),
        ("pairs kept", f"{kept:,}", f"{percent(kept, scored)} of pairs scored"),
    ]
    yield section("From link to pair", table(("", "number", "share"), rows))
    yield '<div class="columns">'
    failed = {name: count for name, count in funnel.outcomes.items() if name != "success"}
    yield section("Links without a picture", bars(failed, {}), "By outcome.")
    dropped = {name: count for name, count in funnel.verdicts.items() if name != "kept"}
    yield section("Pairs that were dropped", bars(dropped, {}), "By the filter's verdict.")
    yield "</div>"
    if funnel.dropped_bins:
        yield section("Kept and dropped", draw_histograms(histograms(funnel)), "By similarity, for each 0.02.")


def _sizes(total: Figures) -> Iterable[str]:
    known = total["sizes"]["known"]
    if not known:
        return
    lines = {name: total[name]["quantiles"] for name in ("width", "height")}
    legend = '<span class="key line0"></span>width <span class="key line1"></span>height; pixels by quantile'
    yield section("Width and height", quantiles("Width and height by quantile", lines), legend)
    rows = [
        (f"≥ {side}", *(_with_share(total["sizes"][kind][str(side)]) for kind in ("both_at_least", "either_at_least")))
        for side in AT_LEAST
    ]
    rows += [
        (f"≤ {side}", *(_with_share(total["sizes"][kind][str(side)]) for kind in ("both_at_most", "either_at_most")))
        for side in AT_MOST
    ]
    yield section("Sides", table(("pixels", "both sides", "either side"), rows))
    yield section(
        "Sizes",
        size_grid(total["size_grid"]),
        "Pairs by width and height in pixels; a stronger colour means more pairs.",
    )
    names = [each["from"] or "less" for each in total["aspect"]]
    shown = list(zip(names, (each["rows"] for each in total["aspect"]), strict=True))
    yield section("Aspect", columns("Pairs by aspect", shown), "Width : height, from the ratio named below the column.")


def _texts(total: Figures) -> Iterable[str]:
    characters = total["text"]["characters"]
    if not characters["known"]:
        return
    lines = {"characters": characters["quantiles"], "bytes": total["text"]["bytes"]["quantiles"]}
    legend = '<span class="key line0"></span>characters <span class="key line1"></span>bytes of UTF-8; by quantile'
    yield section("Caption length", quantiles("Caption length by quantile", lines), legend)
    shown = [(_range(each), each["rows"]) for each in characters["ranges"]]
    long = characters["at_least_100"]
    note = f"In characters. {100 * long['share']:.1f} % have 100 or more."
    yield section("Caption lengths", columns("Pairs by caption length", shown), note)


def _range(each: Mapping[str, Any]) -> str:
    return f"{each['from']}–{each['to'] - 1}" if each["to"] else f"{each['from']}+"


def _floats(total: Figures) -> Iterable[str]:
    for name, (heading, note) in FLOAT_TITLES.items():
        figures = total[name]
        if figures["known"]:
            said = f"{note} Mean {_value(figures['mean'])}, median {_value(figures['quantiles']['0.50'])}."
            yield section(heading, histogram(heading, figures["histogram"], HISTOGRAM_BINS[name]), said)


def _languages(total: Figures) -> Iterable[str]:
    languages = total["languages"]
    if not languages:
        return
    yield '<div class="columns">'
    counts = {each["language"] or "": each["rows"] for each in languages}
    yield section(
        "Languages", f'<div class="plain">{bars(counts, {})}</div>', f"Of the caption; {len(languages):,} in all."
    )
    rows = [
        (
            escape(each["language"] or "none"),
            *(_value(each["similarity"][name]) for name in ("mean", "0.10", "0.50", "0.90")),
        )
        for each in languages[:LANGUAGES]
    ]
    if any(each["similarity"]["mean"] is not None for each in languages):
        yield section("Similarity by language", table(("language", "mean", "10 %", "median", "90 %"), rows))
    yield "</div>"


def _listed(heading: str, name: str, listed: Figures) -> str:
    repeated = [each for each in listed["values"][:LISTED] if each["rows"] > 1]
    if not repeated:
        return ""
    rows = [
        (f'<span class="text" dir="auto">{escape(each["value"]) or "(empty)"}</span>', f"{each['rows']:,}")
        for each in repeated
    ]
    return section(heading, table((name, "pairs"), rows))


def _domains(domains: Sequence[Figures]) -> str:
    rows = [(escape(each["name"]), f"{each['rows']:,}", _value(each["mean_punsafe"])) for each in domains[:LISTED]]
    return section("Most frequent domains", table(("domain", "pairs", "mean punsafe"), rows)) if rows else ""


def _distinct(figures: Figures) -> str:
    names = {"URL": "URLs", "TEXT": "captions", "host": "hosts", "sha256": "pictures, by sha256"}
    rows = [(names[name], f"{count:,}") for name, count in figures[ALL]["distinct"].items() if count]
    note = f"HyperLogLog, standard error {100 * figures['distinct_count_relative_error']:.1f} %."
    return section("Distinct values", table(("", "about"), rows), note) if rows else ""


def _duplicates(found: Figures | None) -> str:
    if not found:
        return ""
    tables = [
        table(("", "pairs", "share"), duplicate_rows(found)),
        table(("pairs in a group", "groups"), group_size_rows(found["groups_by_lowest_size"])),
    ]
    return section("Near-duplicates", "".join(tables), f"Cosine at least {found['at']}.")


def _nulls(total: Figures) -> str:
    rows = [
        (name, f"{each['rows']:,}", f"{each['null']:,}", f"{each['nan']:,}") for name, each in total["columns"].items()
    ]
    return section("Columns", table(("column", "rows", "null", "NaN"), rows)) if rows else ""


def _galleries(galleries: Mapping[Bucket, Sequence[Thumbnail]]) -> Iterable[str]:
    for bucket, shown in galleries.items():
        note = "Random pictures, each with its score."
        if bucket.column == "punsafe" and bucket.low is not None:
            note += " Point at a picture to see it."
            shown = [replace(each, is_unsafe=True) for each in shown]
        yield section(bucket.heading, gallery(shown), note)


def _with_share(each: Mapping[str, Any]) -> str:
    return f"{each['rows']:,} <small>{_share(each)}</small>"


def _share(each: Mapping[str, Any]) -> str:
    return "–" if each["share"] is None else f"{100 * each['share']:.2f} %"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
