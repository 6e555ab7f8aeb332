"""The report: one HTML file that shows a person what a run has made, from what its manifest lists and nothing else.

Memory does not grow with the run: tables are read one output at a time, and thumbnails come from a few shards, spread
over the subsets. The file needs nothing beside itself. Captions and URLs were written by strangers: they are escaped,
and the page forbids scripts and anything from elsewhere.

Which samples are shown is settled by `hash`, which is as good as chance and the same each time. Rejected: the best and
the worst similarities, which flatter and frighten, and say nothing of the middle, where the threshold is.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.errors import DatasetError
from dataset.formats.shards import Sample, read_samples
from dataset.models.decoders import Decoders
from dataset.models.inputs import SmallJpeg
from dataset.report.chart import Histogram
from dataset.report.page import Findings, MeasuredRow, StageRow, Thumbnail, render_page
from dataset.store.store import Store

__all__ = ["MeasuredRow", "ReportError", "StageRow", "write_report"]

GALLERY_PARTS = 9  # parts that thumbnails are taken from: each costs the reading of a shard, some 200 MB
GALLERY_SAMPLES = 36  # kept, and as many dropped
THUMBNAIL_PIXELS = 150
BIN_EDGES = np.linspace(-1.0, 1.0, 101)
KEPT = "kept"


class ReportError(DatasetError):
    """There is nothing to report on, or nowhere to write it."""


@dataclass(frozen=True, slots=True, order=True)
class Score:
    """A scored pair that may be shown; ordered by a hash that is as good as chance."""

    hash: int
    key: str
    similarity: float


@dataclass(slots=True)
class Gathered:
    """What has been counted so far; `histograms` by model and threshold, counts (100,) int64 over BIN_EDGES."""

    outcomes: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    fetched_by_language: Counter[str] = field(default_factory=Counter)
    kept_by_language: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    kept_bins: dict[tuple[str, float], npt.NDArray[np.int64]] = field(default_factory=dict)
    dropped_bins: dict[tuple[str, float], npt.NDArray[np.int64]] = field(default_factory=dict)


def write_report(
    store: Store,
    manifest: pa.Table,
    out: Path,
    title: str,
    stages: Sequence[StageRow] = (),
    measured: Sequence[MeasuredRow] = (),
) -> None:
    """Write the report on the outputs that `manifest` lists to the local file `out`.

    Of the manifest the columns kind ('shard' and 'part' count), path (without extension), job and subset are read, and,
    where they are, tar_bytes and tar_deleted_at: of a shard whose pictures are deleted, those that its part kept are
    shown.

    Raises: ReportError when the manifest lists no shard or `out` cannot be written; StoreError when an output is gone.
    """
    columns = ["kind", "path", "job", "subset", "tar_bytes", "tar_deleted_at"]
    outputs = manifest.select([name for name in columns if name in manifest.column_names]).to_pylist()
    shards = {row["job"]: row["path"] for row in outputs if row["kind"] == "shard"}
    parts = [row for row in outputs if row["kind"] == "part"]
    if not shards:
        raise ReportError(
            "The manifest lists no shard, so there is nothing to report on: let a download worker finish."
        )
    gathered = Gathered()
    for path in shards.values():
        _count_shard(store, path, gathered)
    for part in parts:
        _count_part(store, part["path"], "en" if part["subset"] == "en" else "other", gathered)
    shown = _spread(parts)
    kept, dropped = _choose_samples(store, shown)
    tars = _tars(store, outputs, shown)
    pictures = _thumbnails(store, shards, tars, {score.key: score.similarity for score in [*kept, *dropped]})
    page = render_page(
        Findings(
            title=title,
            shards=len(shards),
            parts=len(parts),
            outcomes=gathered.outcomes,
            waiting=gathered.waiting,
            fetched_by_language=gathered.fetched_by_language,
            kept_by_language=gathered.kept_by_language,
            verdicts=gathered.verdicts,
            histograms=_histograms(gathered),
            kept=_by_similarity(kept, pictures),
            dropped=_by_similarity(dropped, pictures),
            stages=stages,
            measured=measured,
        )
    )
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{out} cannot be written ({error.strerror}): name another file.") from error


def _count_shard(store: Store, path: str, gathered: Gathered) -> None:
    table = store.read_table(f"{path}.parquet", ["outcome", "final", "language"])
    final = table.filter(pc.field("final"))
    gathered.outcomes.update(_counts(final["outcome"]))
    gathered.waiting.update(_counts(table.filter(~pc.field("final"))["outcome"]))
    gathered.fetched_by_language.update(_counts(final.filter(pc.field("outcome") == "success")["language"]))


def _count_part(store: Store, path: str, role: str, gathered: Gathered) -> None:
    gathered.kept_by_language.update(_counts(store.read_table(f"{path}.parquet", ["LANGUAGE"])["LANGUAGE"]))
    scores = store.read_table(f"{path}.scores.parquet", ["similarity", "reason"])
    gathered.verdicts.update(_verdicts(scores))
    model = _model(scores, role)
    scored = scores.filter(pc.field("similarity").is_valid())
    kept = pc.equal(scored["reason"], KEPT)
    for bins, chosen in ((gathered.kept_bins, kept), (gathered.dropped_bins, pc.invert(kept))):
        counts, _ = np.histogram(scored.filter(chosen)["similarity"].to_numpy(), BIN_EDGES)
        bins[model] = bins.get(model, np.zeros(len(BIN_EDGES) - 1, np.int64)) + counts


def _model(table: pa.Table, role: str) -> tuple[str, float]:
    """Read from a part's metadata the model that scored it, and its threshold."""
    models = json.loads((table.schema.metadata or {}).get(b"shoal.models", b"{}"))
    spec = models.get(role, {"model": role, "threshold": 0.0})
    return f"{spec['model']} ({'English' if role == 'en' else 'other languages'})", float(spec["threshold"])


def _verdicts(scores: pa.Table) -> dict[str, int]:
    """Count a part's verdicts, also those of which no row is left; parts of old versions have only rows."""
    said = (scores.schema.metadata or {}).get(b"shoal.verdicts")
    return dict(json.loads(said)) if said else _counts(scores["reason"])


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Count a column's values; null is ''."""
    return {row["values"] or "": row["counts"] for row in pc.value_counts(column).to_pylist()}


def _histograms(gathered: Gathered) -> list[Histogram]:
    return [
        Histogram(model, threshold, BIN_EDGES, gathered.kept_bins[model, threshold], dropped)
        for (model, threshold), dropped in sorted(gathered.dropped_bins.items())
    ]


def _spread(parts: Sequence[dict[str, str]]) -> list[str]:
    """Choose the paths of GALLERY_PARTS parts, the subsets in turn."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, str, str]] = []
    for part in parts:
        ranked.append((seen[part["subset"]], part["subset"], part["path"]))
        seen[part["subset"]] += 1
    return [path for _, _, path in sorted(ranked)[:GALLERY_PARTS]]


def _choose_samples(store: Store, paths: Sequence[str]) -> tuple[list[Score], list[Score]]:
    """Draw the kept and the dropped samples to be shown from the scores of some parts."""
    kept: list[Score] = []
    dropped: list[Score] = []
    for path in paths:
        rows = store.read_table(f"{path}.scores.parquet").to_pylist()
        scores = [(row["reason"], Score(row["hash"], row["key"], row["similarity"])) for row in rows if _is_scored(row)]
        kept = heapq.nsmallest(GALLERY_SAMPLES, kept + [score for reason, score in scores if reason == KEPT])
        dropped = heapq.nsmallest(GALLERY_SAMPLES, dropped + [score for reason, score in scores if reason != KEPT])
    return kept, dropped


def _is_scored(row: dict[str, object]) -> bool:
    return row["similarity"] is not None


def _tars(store: Store, outputs: Sequence[dict[str, object]], shown: Sequence[str]) -> dict[str, str]:
    """Say where the pictures of each shard are, by its path: in its own tar or, of what is shown, in its part's."""
    tars = {str(row["path"]): str(row["path"]) for row in outputs if row.get("tar_deleted_at") is None}
    for row in outputs:
        path = str(row["path"])
        if row["kind"] == "part" and row.get("tar_bytes") and path in shown:
            for shard in store.read_table(f"{path}.parquet", ["shard"])["shard"].unique().to_pylist():
                tars.setdefault(shard, path)
    return tars


def _thumbnails(
    store: Store, shards: dict[int, str], tars: dict[str, str], wanted: dict[str, float]
) -> dict[str, Thumbnail]:
    """Make thumbnails of the samples with the `wanted` keys; one that cannot be read or decoded is left out."""
    by_job: dict[int, set[str]] = {}
    for key in wanted:
        by_job.setdefault(int(key[:10]), set()).add(key)  # a key begins with ten digits of the download job
    made: dict[str, Thumbnail] = {}
    with Decoders() as decoders:
        for job, keys in by_job.items():
            shard = shards.get(job)
            for sample in _samples(store, shard, tars.get(shard or ""), keys):
                (jpeg,) = decoders.each(SmallJpeg(THUMBNAIL_PIXELS), [sample.image])
                if jpeg is not None:
                    size = (sample.original_width, sample.original_height)
                    made[sample.key] = Thumbnail(
                        jpeg, sample.caption, wanted[sample.key], sample.language, sample.url, size
                    )
    return made


def _samples(store: Store, shard: str | None, tar: str | None, keys: set[str]) -> Iterator[Sample]:
    """Read the samples with these keys from a shard, and no further than the last of them."""
    if shard is None or tar is None:
        return
    missing = set(keys)
    for sample in read_samples(store, shard, tar):
        if sample.key in missing:
            missing.discard(sample.key)
            if isinstance(sample, Sample):
                yield sample
        if not missing:
            return


def _by_similarity(scores: Sequence[Score], pictures: dict[str, Thumbnail]) -> list[Thumbnail]:
    shown = [pictures[score.key] for score in scores if score.key in pictures]
    return sorted(shown, key=lambda picture: -picture.similarity)
