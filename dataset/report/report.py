"""The report: one HTML file about the results of a run, made from the outputs that its manifest lists.

Memory does not grow with the run: the manifest is streamed, tables are read one at a time, and thumbnails come from a
few shards of all subsets. The file is self-contained. Captions and URLs are untrusted: they are escaped, and the page
forbids scripts and external content.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataset.errors import DatasetError, said_by
from dataset.formats.manifest import OutputKind, outputs
from dataset.report.page import Findings, MeasuredRow, StageRow, render_page
from dataset.report.thumbnails import by_similarity, choose_samples, read_pictures, spread_parts
from dataset.stats.funnel import gather_funnel
from dataset.store.store import Store

__all__ = ["MeasuredRow", "ReportError", "StageRow", "write_report"]


class ReportError(DatasetError):
    """There is nothing to report on, or the page cannot be written."""


def write_report(
    store: Store,
    out: Path,
    title: str,
    stages: Sequence[StageRow] = (),
    measured: Sequence[MeasuredRow] = (),
) -> None:
    """Write the report on the outputs that the store's manifest lists to the local file `out`.

    If a shard's pictures are deleted, those that its part kept are shown.

    Raises: ManifestError when there is no manifest; ReportError when it lists no shard or `out` cannot be written;
    StoreError when an output is missing.
    """
    with _translated("The manifest"):
        counted = Counter(output.kind for output in outputs(store))
    if not counted[OutputKind.SHARD]:
        raise ReportError(
            "The manifest lists no shard, so there is nothing to report on: let a download worker finish."
        )
    with _translated("An output that the manifest lists"):
        funnel = gather_funnel(
            store,
            (shard.path for shard in outputs(store, kind=OutputKind.SHARD)),
            ((part.path, part.subset) for part in outputs(store, kind=OutputKind.PART)),
        )
        parts = spread_parts(store)
        kept, dropped = choose_samples(store, [part.path for part in parts])
        wanted = {score.key: score.similarity for score in [*kept, *dropped]}
        pictures = read_pictures(store, parts, wanted)
    page = render_page(
        Findings(
            title=title,
            shards=counted[OutputKind.SHARD],
            parts=counted[OutputKind.PART],
            funnel=funnel,
            kept=by_similarity(kept, pictures),
            dropped=by_similarity(dropped, pictures),
            stages=stages,
            measured=measured,
        )
    )
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"Cannot write {out} ({error.strerror}): name another file.") from error


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate errors about files with other columns, types, keys or metadata into one sentence."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ReportError(
            f"{what} was not written by this version of Shoal ({said_by(error)}): write the manifest again with "
            "`tracker manifest`."
        ) from error
