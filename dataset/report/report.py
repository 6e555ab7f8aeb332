"""The report: one HTML file that shows what a run has made, from the outputs that its manifest lists.

Memory does not grow with the run: tables are read one at a time, and thumbnails come from a few shards of all subsets.
The file is self-contained. Captions and URLs are untrusted: they are escaped, and the page forbids scripts and external
content.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from dataset.errors import DatasetError, said_by
from dataset.report.page import Findings, MeasuredRow, StageRow, render_page
from dataset.report.thumbnails import by_similarity, choose_samples, find_tars, read_thumbnails, spread
from dataset.stats.funnel import gather_funnel
from dataset.store.store import Store

__all__ = ["MeasuredRow", "ReportError", "StageRow", "write_report"]


class ReportError(DatasetError):
    """There is nothing to report on, or the page cannot be written."""


def write_report(
    store: Store,
    manifest: pa.Table,
    out: Path,
    title: str,
    stages: Sequence[StageRow] = (),
    measured: Sequence[MeasuredRow] = (),
) -> None:
    """Write the report on the outputs that `manifest` lists to the local file `out`.

    It reads the manifest's columns kind ('shard' and 'part'), path (without extension), job and subset, and, if
    present, tar_bytes and tar_deleted_at: if a shard's pictures are deleted, those that its part kept are shown.

    Raises: ReportError when the manifest lists no shard or `out` cannot be written; StoreError when an output is
    missing.
    """
    columns = ["kind", "path", "job", "subset", "tar_bytes", "tar_deleted_at"]
    missing = [name for name in columns[:4] if name not in manifest.column_names]
    if missing:
        raise ReportError(f"The manifest has no column {missing[0]}: write it again with `tracker manifest`.")
    outputs = manifest.select([name for name in columns if name in manifest.column_names]).to_pylist()
    with _translated("The manifest"):
        shards = {row["job"]: row["path"] for row in outputs if row["kind"] == "shard"}
    parts = [row for row in outputs if row["kind"] == "part"]
    if not shards:
        raise ReportError(
            "The manifest lists no shard, so there is nothing to report on: let a download worker finish."
        )
    with _translated("An output that the manifest lists"):
        funnel = gather_funnel(store, shards.values(), [(part["path"], part["subset"]) for part in parts])
        shown = spread(parts)
        kept, dropped = choose_samples(store, shown)
        tars = find_tars(store, outputs, shown)
        pictures = read_thumbnails(store, shards, tars, {score.key: score.similarity for score in [*kept, *dropped]})
    page = render_page(
        Findings(
            title=title,
            shards=len(shards),
            parts=len(parts),
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
