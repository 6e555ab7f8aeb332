"""The report on near-duplicates as one self-contained page: figures and thumbnails in, HTML out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from dataset.dedup.figures import BIN, Figures, Group
from dataset.report.html import (
    CONTENT_POLICY,
    SERVED_POLICY,
    Site,
    Thumbnail,
    bars,
    document,
    gallery,
    percent,
    section,
    table,
    tiles,
)
from dataset.report.plots import columns, histogram

_KINDS = {
    "bytes": "the picture has the same bytes",
    "exact": "the embedding is equal",
    "near": "the cosine reaches the threshold",
    "pdq": "the cosine is lower, and the pictures' PDQ hashes agree",
}


def render(
    figures: Figures,
    pictures: Mapping[int, str],
    unsafe: Collection[int] = (),
    site: Site | None = None,
    precision: Sequence[str] = (),
) -> str:
    """Return the page; `pictures` are addresses by id of the groups' rows that can be shown, `unsafe` ids among them.

    `precision` are sections as HTML. With `site` it is a page of a server, on which pictures come from their own hosts.
    """
    search = figures.search
    sections = [
        tiles(_tiles(figures)),
        section("Funnel", _funnel(figures), "From all rows of the release to one row a group."),
        '<div class="columns">',
        section(
            "Cosine to the representative",
            histogram("Members by cosine", _bins(figures), BIN, 3, mark=search["options"]["at"]),
            f"Members of the kinds near and pdq; bins of {BIN:g}.",
        ),
        section("Rows by size of their group", columns("Rows by group size", _sizes(figures)), "1: no near-duplicate."),
        "</div>",
        *_groups(figures, pictures, unsafe, site),
        *precision,
        *_recall(figures),
        '<div class="columns">',
        section(
            "Hosts",
            bars({one.host or "none": one.members for one in figures.hosts}, {}),
            "Rows that another one represents, by host.",
        ),
        section("Batches", _batches(figures), _BATCHES),
        "</div>",
        section("Checks", _checks(search), "Computed at the end of the search."),
        section("Parameters", _parameters(search)),
    ]
    policy = SERVED_POLICY if site else CONTENT_POLICY
    name, version = search["release"], search["version"]
    return document(f"Near-duplicates of {name}", f"Version {version}", sections, site=site, policy=policy)


_KEPT = "; pictures that are still kept"
_BATCHES = (
    "A batch leaves the groups of earlier batches as they are: a new row becomes a member of an earlier group, of a "
    "group of its batch, or is kept."
)


def _tiles(figures: Figures) -> list[tuple[str, str]]:
    rows, kept = figures.search["rows"], figures.search["representatives"]
    missed = figures.search["checks"]
    return [
        (f"{rows:,}", "rows with an embedding"),
        (percent(rows - kept, rows), f"are near-duplicates of others: {rows - kept:,}"),
        (f"{kept:,}", "rows kept as representatives"),
        (
            f"{100 * missed['share_upper_bound']:.2f} %",
            "of representatives at most have a near-duplicate that was missed",
        ),
    ]


def _funnel(figures: Figures) -> str:
    search = figures.search
    left = search["rows"] + figures.without_embedding
    rows = [("rows of the release", "", f"{left:,}", "")]
    if figures.without_embedding:
        rows.append(("without an embedding", f"{figures.without_embedding:,}", f"{search['rows']:,}", ""))
    left = search["rows"]
    for kind, count in search["members"].items():
        left -= count
        rows.append((f"{kind}: {_KINDS[kind]}", f"{count:,}", f"{left:,}", percent(count, search["rows"])))
    return table(("step", "rows removed", "rows left", "share"), rows)


def _bins(figures: Figures) -> list[dict[str, Any]]:
    return [{"from": float(edge), "rows": count} for edge, count in figures.cosines.items()]


def _sizes(figures: Figures) -> list[tuple[str, int]]:
    found = []
    for name, count in figures.rows_by_size.items():
        lowest = int(name)
        found.append((name if lowest < 2 else f"{lowest}–{2 * lowest - 1}", count))
    return found


def _groups(figures: Figures, pictures: Mapping[int, str], unsafe: Collection[int], site: Site | None) -> Iterator[str]:
    if not figures.largest:
        return
    heads = ("representative", "rows", "hosts", "lowest cosine", "caption with the highest similarity", "URL")
    yield section("Largest groups", table(heads, [_group_row(one, site) for one in figures.largest]))
    note = f"The representative first, then members at the quantiles of the cosine{'' if site else _KEPT}."
    shown = [one for one in figures.largest if any(each in pictures for each in _ids(one))]
    for one in shown:
        cosines = {one.representative: 1.0} | {member.id: member.cosine for member in one.members}
        thumbnails = [
            Thumbnail(
                pictures[each],
                one.caption if each == one.representative else "",
                cosine,
                f"id {each}",
                one.url if each == one.representative else "",
                None,
                each in unsafe,
            )
            for each, cosine in cosines.items()
            if each in pictures
        ]
        yield section(f"Group of {one.size:,}", gallery(thumbnails), note)


def _ids(group: Group) -> list[int]:
    return [group.representative, *(member.id for member in group.members)]


def _group_row(one: Group, site: Site | None) -> tuple[str, ...]:
    lowest = min((member.cosine for member in one.members), default=1.0)
    caption = f'<span class="text" dir="auto">{escape(one.caption or "")}</span>'
    url = f'<span class="text">{escape(one.url)}</span>'
    name = str(one.representative)
    if site:
        name = f'<a href="{escape(site.similar_to(one.representative))}">{name}</a>'
    return name, f"{one.size:,}", f"{one.hosts:,}", f"{lowest:.4f}", caption, url


def _recall(figures: Figures) -> Iterator[str]:
    """Yield the tables of planted copies, or how to measure them."""
    planted = figures.planted
    if planted is None:
        command = f"dataset dedup plant {figures.search['release']}"
        yield section("Recall", f'<p class="note">Not measured with these options: run {escape(command)}.</p>')
        return
    heads = (
        "edit",
        "copies",
        "cosine p5",
        "p50",
        "p95",
        "found of those at the threshold",
        "found",
        "95 % interval",
        "PDQ agrees",
    )
    notes = {
        True: f"Copies of {planted['pictures']:,} pictures of the release, made by these edits.",
        False: "Other pictures that are close; those that are found would be removed wrongly.",
    }
    for is_copy, name in ((True, "Recall on planted copies"), (False, "Close pictures that are not copies")):
        rows = [_edit(one) for one in planted["edits"] if one["is_copy"] is is_copy]
        yield section(name, table(heads, rows), notes[is_copy])


def _edit(one: Mapping[str, Any]) -> tuple[str, ...]:
    shares = ["–" if one[name]["share"] is None else f"{one[name]['share']:.3f}" for name in ("index_recall", "recall")]
    low, high = one["recall"]["interval"]
    cosines = [f"{value:.3f}" for value in one["cosine"]]
    return (
        escape(one["edit"]),
        f"{one['pairs']:,}",
        *cosines,
        *shares,
        f"{low:.3f} to {high:.3f}",
        f"{one['by_pdq']:,}",
    )


def _batches(figures: Figures) -> str:
    rows = [
        (
            escape(one.batch),
            f"{one.rows:,}",
            f"{one.of_earlier:,}",
            f"{one.rows - one.representatives - one.of_earlier:,}",
            f"{one.representatives:,}",
        )
        for one in figures.batches
    ]
    return table(("batch", "rows", "members of earlier batches", "members of this batch", "kept"), rows)


def _checks(search: Mapping[str, Any]) -> str:
    checks = search["checks"]
    rows = [
        ("members whose exact cosine was computed again", f"{checks['members_compared']:,}"),
        ("of these, by an earlier search, unchanged since", f"{checks['members_compared_before']:,}"),
        ("lowest cosine of a member to its representative", f"{checks['lowest_cosine']:.4f}"),
        ("representatives compared with all others", f"{checks['representatives_sampled']:,}"),
        ("of these, with another at the threshold", f"{checks['with_another_at_threshold']:,}"),
        ("their share in the release, upper bound of 95 %", f"{100 * checks['share_upper_bound']:.3f} %"),
    ]
    return table(("check", "result"), rows)


def _parameters(search: Mapping[str, Any]) -> str:
    values = {**search["options"], **search["parameters"]}
    shown = {name: ", ".join(value) if isinstance(value, list) else str(value) for name, value in values.items()}
    return table(
        ("parameter", "value"), [(escape(name.replace("_", " ")), escape(value)) for name, value in shown.items()]
    )
