"""The page of an explanation: the rows with their pictures, as far as these are kept, and the comparisons."""

from html import escape
from pathlib import Path

import numpy as np

from dataset.dedup.errors import DedupError
from dataset.dedup.explain import Compared, ExplainedRow, Explanation
from dataset.dedup.path import MergePath
from dataset.dedup.pictures import kept_thumbnails
from dataset.formats.releases import Release
from dataset.report.html import Thumbnail, data_url, document, gallery, section, table

NOT_KEPT = "Pictures that are not kept any more are named by their URL below; the swarm has deleted them on schedule."


def write_page(release: Release, found: Explanation, out: Path) -> None:
    """Write one self-contained HTML file.

    Raises: DedupError when it cannot be written; StoreError.
    """
    ids = np.array(sorted(found.rows), np.int64)
    page = render_page(release, found, kept_thumbnails(release, ids))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DedupError(f"Cannot write {out} ({error.strerror}): name another file.") from error


def render_page(release: Release, found: Explanation, jpegs: dict[int, bytes]) -> str:
    """Return the page; `jpegs` are thumbnails by id."""
    shown = [_thumbnail(found.rows[one], jpegs[one]) for one in _in_order(found) if one in jpegs]
    compared = [
        *found.to_representative.values(),
        *(one for one in found.not_merged.values() if one is not None),
        *([found.pair] if found.pair else []),
    ]
    heads = ("rows", "cosine", "PDQ distance", "same bytes", "better by", "one group")
    sections = [
        section("Pictures", gallery(shown), NOT_KEPT if len(shown) < len(found.rows) else ""),
        section("Comparisons", table(heads, [_comparison(one, found) for one in compared]), f"Threshold {found.at:g}"),
        section("Search", table(_PATH_HEADS, [_path(one, found.paths[one]) for one in found.asked]), _SEARCH),
        section("Rows", table(_HEADS, [_row(found.rows[one]) for one in _in_order(found)])),
    ]
    names = " and ".join(map(str, found.asked))
    return document(f"Near-duplicates of {names}", f"{release.record.name} {release.record.version}", sections)


_PATH_HEADS = ("row", "round", "step", "met", "cell", "its cell", "compared in")
_SEARCH = (
    "Rounds count over all batches. Step: kept; equal: its embedding is another row's; earlier: with representatives "
    "of earlier rounds; round: with rows of its round."
)
_HEADS = ("id", "group", "size", "kind", "cosine", "pixels", "similarity", "URL", "caption")


def _path(row: int, path: MergePath | None) -> tuple[str, ...]:
    if path is None:
        return (str(row), "the search's files are deleted", "", "", "", "", "")
    rounds = "" if path.round is None else f"{path.round} of {path.rounds}"
    numbers = ("" if one is None else str(one) for one in (path.met, path.cell, path.met_cell, path.visited))
    return (str(row), rounds, path.step.value, *numbers)


def _in_order(found: Explanation) -> list[int]:
    """Return the ids: those that were asked for, then representatives and neighbours."""
    return list(dict.fromkeys([*found.asked, *found.rows]))


def _comparison(one: Compared, found: Explanation) -> tuple[str, ...]:
    same = found.rows[one.a].representative == found.rows[one.b].representative
    return (
        f"{one.a}, {one.b}",
        f"{one.cosine:.4f}",
        "none" if one.pdq is None else str(one.pdq),
        "yes" if one.same_bytes else "no",
        f"{one.better}: {one.decided_by}",
        "yes" if same else "no",
    )


def _row(row: ExplainedRow) -> tuple[str, ...]:
    similarity = "" if row.similarity is None else f"{row.similarity:.3f}"
    caption = f'<span class="text" dir="auto">{escape(row.caption)}</span>'
    group = (str(row.id), str(row.representative), f"{row.group_size:,}", row.kind, f"{row.cosine:.4f}")
    return (*group, f"{row.width} × {row.height}", similarity, escape(row.url), caption)


def _thumbnail(row: ExplainedRow, jpeg: bytes) -> Thumbnail:
    size = (row.width or 0, row.height or 0)
    return Thumbnail(data_url(jpeg), row.caption, row.cosine, f"id {row.id}", row.url, size)
