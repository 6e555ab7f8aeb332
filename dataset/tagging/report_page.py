"""The report on tags as one self-contained page: figures and thumbnails in, HTML out."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from dataset.recipe.tags import Tag
from dataset.report.html import Thumbnail, data_url, document, gallery, percent, section, table, tiles
from dataset.report.plots import histogram
from dataset.tagging.figures import BINS, SHOWN_ROWS, Bucket, TagFigures
from dataset.tags.prevalence import Share

_BY_LABELS = (
    "Precision and recall in the whole release, from {labels:,} labelled rows that were drawn at random, with their "
    "weights; 95 % intervals."
)
_BY_CALIBRATION = (
    "No labels were given: precision and recall are those of calibrated scores, which hold only if the release is like "
    "the data on which the head was calibrated. Measure them with --labels."
)


def render(name: str, version: str, tags: Sequence[TagFigures], jpegs: Mapping[int, bytes]) -> str:
    """Return the page; `jpegs` are thumbnails by id of drawn rows whose pictures are kept."""
    sections = [part for one in tags for part in _tag(one, jpegs)]
    return document(f"Tags of {name}", f"Version {version}", sections)


def _tag(one: TagFigures, jpegs: Mapping[int, bytes]) -> Iterator[str]:
    yield tiles(_tiles(one))
    if one.head is not None:
        yield section(f"Head of {one.tag}", _head(one))
    yield '<div class="columns">'
    for subset, bins in one.histograms.items():
        shown = [{"from": at / BINS, "rows": count} for at, count in enumerate(bins)]
        drawn = histogram(f"Rows of {subset} by {one.tag}", shown, 1 / BINS, mark=0.5)
        yield section(f"{one.tag} in {escape(subset)}", drawn, f"{one.rows[subset]:,} rows; the line is at 0.5.")
    yield "</div>"
    note = _BY_LABELS.format(labels=one.labels) if one.labels else _BY_CALIBRATION
    yield section(f"{one.tag} by threshold", _thresholds(one), note)
    ends = [*(bucket.low for bucket in one.buckets[1:]), 1.0]
    for bucket, end in zip(one.buckets, ends, strict=True):
        if bucket.rows:
            heading = f"{one.tag} from {bucket.low:g} to {end:g}"
            yield section(heading, *_bucket(bucket, jpegs, is_unsafe=one.tag == Tag.PUNSAFE))


def _tiles(one: TagFigures) -> list[tuple[str, str]]:
    rows, without = sum(one.rows.values()), sum(one.without.values())
    half = next(each for each in one.thresholds if each.threshold == 0.5)
    source = f"of the side table {one.table}" if one.table else "of the release itself"
    return [
        (f"{rows:,}", f"rows have {one.tag}, {source}"),
        (f"{without:,}", "rows have none"),
        (percent(half.rows, rows), f"have {one.tag} of 0.5 or more"),
        (_percent(one.prevalence), "have the property, as estimated"),
    ]


def _head(one: TagFigures) -> str:
    head = one.head
    assert head is not None
    rows = [
        ("head", escape(head.head)),
        ("sha256", f"{head.sha256[:16]}…"),
        ("reads", f"embeddings/{escape(head.reads)}" if head.reads else "pictures"),
        ("model card", escape(head.card)),
        ("rows with a value", f"{head.rows:,}"),
        *((f"rows without: {escape(reason)}", f"{count:,}") for reason, count in head.left_out.items()),
    ]
    return table(("", ""), rows)


def _thresholds(one: TagFigures) -> str:
    total = sum(one.rows.values())
    rows = [
        (
            f"{each.threshold:g}",
            f"{each.rows:,}",
            percent(each.rows, total),
            f"{total - each.rows:,}",
            _share(each.precision),
            _share(each.recall),
        )
        for each in one.thresholds
    ]
    heads = ("threshold", "rows at or above", "share", "rows kept below", "precision", "recall")
    return table(heads, rows)


def _share(one: Share) -> str:
    if not one.rows:
        return "–"
    interval = "" if one.low == one.high else f" <small>{one.low:.3f} to {one.high:.3f}</small>"
    return f"{one.share:.3f}{interval}"


def _percent(one: Share) -> str:
    return f"{100 * one.share:.1f} %" if one.rows else "–"


def _bucket(bucket: Bucket, jpegs: Mapping[int, bytes], *, is_unsafe: bool) -> tuple[str, str]:
    """Return the gallery and its note."""
    shown = [one for one in bucket.drawn if one.id in jpegs][:SHOWN_ROWS]
    pictures = [
        Thumbnail(data_url(jpegs[one.id]), one.caption, one.score, f"id {one.id}", one.url, one.size, is_unsafe)
        for one in shown
    ]
    if not shown:
        note = f"{bucket.rows:,} rows. Of {len(bucket.drawn):,} that were drawn at random, no picture is kept."
        return "", note
    return gallery(
        pictures
    ), f"{len(shown):,} of {bucket.rows:,} rows, drawn at random among those whose pictures are kept."
