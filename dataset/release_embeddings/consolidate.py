"""`dataset embeddings`: the plan, the units of the phases in threads, and the record.

After its output, each unit writes a small JSON file, its marker; a unit with a marker is done. Threads are enough,
because numpy, Arrow and hashlib release the GIL nearly all of the time.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

from dataset import strict_json
from dataset.formats.json_records import from_json
from dataset.formats.release_embeddings import (
    FORMAT,
    MISSING,
    RECORD,
    EmbeddingModel,
    EmbeddingsFile,
    EmbeddingsRecord,
    ReleaseEmbeddingsError,
    find_embeddings,
    model_folder_name,
    write_embeddings_record,
)
from dataset.formats.releases import Release, require_live
from dataset.release_embeddings.files import Content, FileUnit, write_file
from dataset.release_embeddings.layout import write_layout
from dataset.release_embeddings.match import UnitReport, match_unit
from dataset.release_embeddings.plan import Plan, Work, delete_work, open_work
from dataset.release_embeddings.sources import list_foreign, list_sources
from dataset.stats.threads import map_in_order
from dataset.store.lock import locked

UNIT_ROWS = 10_000_000
ROW_BYTES = 96
"""Memory per row of a unit: its hash, key, order and id, and the copies made by sorting."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of a consolidation; `foreign` is a folder's URI, or '' for the embeddings of the release's inputs."""

    model: str
    batch: str
    foreign: str = ""
    folder: str | None = None
    rows_per_file: int = 1_000_000


def consolidate(
    release: Release,
    request: Request,
    *,
    memory_bytes: int = 2 << 30,
    threads: int = 1,
    restart: bool = False,
    on_progress: Progress = lambda *_: None,
) -> EmbeddingsRecord:
    """Write a model's embeddings of a batch, or continue an interrupted call; return their record.

    Raises: ReleaseEmbeddingsError when they do not fit; StoreError. When called again, it continues where it was.
    """
    plan = Plan(
        release=release.record.name,
        version=release.record.version,
        batch=release.batch(request.batch).name,
        model=request.model,
        folder=request.folder or model_folder_name(request.model),
        foreign=request.foreign,
        rows_per_file=request.rows_per_file,
        units=0,
    )
    if restart:
        release.store.delete(release.path(f"embeddings/{plan.folder}/{plan.batch}/{RECORD}"))
        delete_work(release, plan)
    record = find_embeddings(release, plan.folder, plan.batch)
    if record is None:
        sources = list_foreign(plan.foreign) if plan.foreign else list_sources(release, release.batch(plan.batch))
        unit_rows = max(1, min(UNIT_ROWS, memory_bytes // threads // ROW_BYTES))
        record = _consolidate(open_work(release, plan, sources, unit_rows), threads, on_progress)
    delete_work(release, plan)
    return record


def _consolidate(work: Work, threads: int, on_progress: Progress) -> EmbeddingsRecord:
    plan = work.plan
    reports: list[UnitReport] = []
    for data in map_in_order(lambda unit: _once(work, f"match/{unit:06d}.json", lambda: match_unit(work, unit)),
                             range(plan.units), threads):  # fmt: skip
        reports.append(from_json(UnitReport, data))
        on_progress("matching", len(reports), plan.units)
    model = _only_model(work, reports)
    (dimensions,) = {width for report in reports for width in report.dimensions}
    layout = json.loads(_once(work, "layout.json", lambda: write_layout(work)))
    total = sum(layout["rows"])
    if not total:
        raise ReleaseEmbeddingsError(
            f"{model.name} has no embedding of a row of batch {plan.batch} of {plan.release}: check the batch."
        )
    count = -(-total // plan.rows_per_file)
    units = [
        FileUnit(at, content, at * plan.rows_per_file, min(total, (at + 1) * plan.rows_per_file), dimensions)
        for at in range(count)
        for content in Content
    ]
    source_rows = [report.rows for report in reports]
    files: list[EmbeddingsFile] = []
    written = map_in_order(
        lambda unit: _once(work, f"files/{unit.name}.json",
                           lambda: write_file(work, unit, layout["rows"], source_rows)),
        units, threads)  # fmt: skip
    for done, data in enumerate(written, 1):
        files.append(from_json(EmbeddingsFile, data))
        on_progress("writing", done, len(units))
    missing = sum(rows for subset, rows in layout["missing"].items() if rows < work.batch.subsets[subset].rows)
    files.append(
        EmbeddingsFile(path=MISSING, rows=missing, bytes=layout["missing_bytes"], sha256=layout["missing_sha256"])
    )
    left_out = Counter[str](repeated=layout["repeated"])
    for report in reports:
        left_out.update(report.left_out)
    record = EmbeddingsRecord(
        format=FORMAT,
        release=plan.release,
        version=plan.version,
        batch=plan.batch,
        model=model,
        dimensions=dimensions,
        rows=total,
        source_rows=sum(map(sum, source_rows)),
        left_out={reason: rows for reason, rows in sorted(left_out.items()) if rows},
        missing=layout["missing"],
        files=tuple(sorted(files, key=lambda file: file.path)),
    )
    with locked(work.release.store, work.release.folder):
        require_live(work.release)
        write_embeddings_record(work.release, plan.folder, record)
    return record


def _once(work: Work, marker: str, do: Callable[[], object]) -> bytes:
    """Do a unit unless it has a marker; return the content of the marker."""
    path = work.path(marker)
    if not work.release.store.exists(path):
        work.release.store.put(path, strict_json.dumps(asdict(do())).encode())  # type: ignore[call-overload]
    return work.release.store.read(path)


def _only_model(work: Work, reports: list[UnitReport]) -> EmbeddingModel:
    """Return the one model of all units.

    Raises: ReleaseEmbeddingsError when there is no model, several, or the folder has another model.
    """
    plan = work.plan
    models = sorted({model for report in reports for model in report.models})
    others = sorted({model for report in reports for model in report.others})
    dimensions = sorted({width for report in reports for width in report.dimensions})
    if not models:
        known = ", ".join(f"{one.name or 'unnamed'} ({one.sha256[:12] or 'no checksum'})" for one in others)
        delete_work(work.release, plan)
        if not known:
            raise ReleaseEmbeddingsError(
                f"Batch {plan.batch} of {plan.release} has no embeddings: make them with tracker embed and worker "
                "embed, then write the manifest again (tracker manifest)."
            )
        raise ReleaseEmbeddingsError(
            f"Batch {plan.batch} of {plan.release} has no embeddings of {plan.model}, only of {known}: name one of "
            "these, or make embeddings with tracker embed and worker embed."
        )
    if len(models) > 1:
        listed = ", ".join(f"{one.name} {one.checksum[:12]}" for one in models)
        delete_work(work.release, plan)
        raise ReleaseEmbeddingsError(
            f"{len(models)} models have the name {plan.model} ({listed}): choose one with --model and the first digits "
            "of its checksum, and name its folder with --as."
        )
    if len(dimensions) > 1:
        delete_work(work.release, plan)
        raise ReleaseEmbeddingsError(
            f"The embeddings of {plan.model} have {' and '.join(map(str, dimensions))} dimensions: leave "
            "the wrong ones out."
        )
    for batch in work.release.record.batches:
        found = find_embeddings(work.release, plan.folder, batch.name)
        if found and (found.model.sha256, found.model.config_sha256) != (models[0].sha256, models[0].config_sha256):
            delete_work(work.release, plan)
            raise ReleaseEmbeddingsError(
                f"embeddings/{plan.folder} has {found.model.name} {found.model.checksum[:12]}, not {models[0].name} "
                f"{models[0].checksum[:12]}: give this model another folder with --as."
            )
    return models[0]
