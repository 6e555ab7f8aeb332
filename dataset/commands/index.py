"""`dataset index`: build the kNN index of a release or of a folder of vectors, and change one that is in use."""

import sys
import tempfile
from dataclasses import asdict, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import is_release, open_named_release
from dataset.formats.index_files import IndexRecord, SearchIndexError, index_path, read_index_record
from dataset.formats.releases import Release
from dataset.publish.record import refresh_card
from dataset.store.store import Store

if TYPE_CHECKING:
    from dataset.index.plan import IndexOptions, Work

index_app = typer.Typer(no_args_is_help=True, help="Build, change and describe kNN indexes.")


class Modality(StrEnum):
    """Whose vectors are searched."""

    IMAGE = "image"
    TEXT = "text"
    BOTH = "both"


class Kind(StrEnum):
    """The coding of rows."""

    AUTO = "auto"
    FLAT = "flat"
    SQ16 = "sq16"
    RABITQ = "rabitq"
    PQ128 = "pq128"


IndexedArgument = Annotated[
    str, typer.Argument(metavar="RELEASE|FOLDER", help="A release's name, path or URI; or a folder of .npy files.")
]
ModelOption = Annotated[
    str | None, typer.Option(help="Folder below embeddings/; not needed if there is one. For .npy files, their model.")
]
ModalityOption = Annotated[Modality, typer.Option(help="Which vectors to search: of pictures, texts or both.")]
OutOption = Annotated[str | None, typer.Option(help="For a folder of vectors: folder or URI of its index.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@index_app.command("build")
def index_build(
    indexed: IndexedArgument,
    store: StoreOption,
    model: ModelOption = None,
    modality: ModalityOption = Modality.IMAGE,
    kind: Annotated[
        Kind, typer.Option(help="auto: flat below 20,000 rows, sq16 up to 2 million, then rabitq.")
    ] = Kind.AUTO,
    lists: Annotated[int, typer.Option(min=0, show_default="by size", help="Number of lists.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices: equal seeds give equal bytes.")] = 0,
    out: OutOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Build again, even if there is an index.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the index of all vectors of a model.

    An interrupted call continues when it is repeated.
    """
    _build(indexed, store, model, modality, out, restart=restart, as_json=as_json,
           asked={"kind": kind.value, "lists": lists, "seed": seed})  # fmt: skip


@index_app.command("add")
def index_add(
    indexed: IndexedArgument,
    store: StoreOption,
    model: ModelOption = None,
    modality: ModalityOption = Modality.IMAGE,
    restart: Annotated[bool, typer.Option("--restart", help="Forget an add that was interrupted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add the batches of a release that the index lacks, as a further segment with the same lists."""
    _build(indexed, store, model, modality, None, restart=restart, as_json=as_json, asked={"further": True})


@index_app.command("compact")
def index_compact(
    indexed: IndexedArgument,
    store: StoreOption,
    model: ModelOption = None,
    modality: ModalityOption = Modality.IMAGE,
    out: OutOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget a compaction that was interrupted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Join all segments into one, without the removed rows; ids do not change."""
    _build(indexed, store, model, modality, out, restart=restart, as_json=as_json, asked={"compact": True})


@index_app.command("refresh")
def index_refresh(
    indexed: IndexedArgument,
    store: StoreOption,
    model: ModelOption = None,
    modality: ModalityOption = Modality.IMAGE,
    as_json: JsonOption = False,
) -> None:
    """Compute the facets again, including those from side tables: tags, near-duplicates."""
    with needs_extra("index"):
        from dataset.index.lookup import open_index
        from dataset.index.refresh import refresh
    for one in _modalities(modality):
        place = find_index(indexed, store, model, one)
        release = open_named_release(indexed, store) if is_release(indexed) else None
        with tempfile.TemporaryDirectory(prefix="shoal-index-") as scratch:
            record = refresh(Store.open(str(place)), "", release, Path(scratch))
        sys.stdout.write(_summary(record, open_index(place).facets(), as_json=as_json))
    _renew_card(indexed, store)


@index_app.command("delete")
def index_delete(
    indexed: IndexedArgument,
    ids: Annotated[list[int], typer.Argument(help="Ids of rows.")],
    store: StoreOption,
    model: ModelOption = None,
    modality: ModalityOption = Modality.BOTH,
    yes: Annotated[bool, typer.Option("--yes", help="Delete the rows; without this, only count them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove rows from an index permanently. `dataset takedown` removes them from all files of a release."""
    with needs_extra("index"):
        from dataset.index.delete import delete_ids
        from dataset.index.lookup import open_index
    for one in _modalities(modality):
        try:
            place = find_index(indexed, store, model, one)
        except SearchIndexError:
            if modality is Modality.BOTH and one == "text":
                continue
            raise
        if yes:
            rows = delete_ids(Store.open(str(place)), "", ids).rows
        else:
            rows = sum(row is not None for row in open_index(place).rows(ids))
        said = {"modality": one, "rows": rows, "deleted": yes}
        line = f"{rows:>15,}  rows of the {one} index " + ("removed" if yes else "would be removed; repeat with --yes")
        sys.stdout.write((strict_json.dumps(said) if as_json else line) + "\n")


@index_app.command("info")
def index_info(
    indexed: IndexedArgument,
    store: StoreOption,
    model: ModelOption = None,
    modality: ModalityOption = Modality.IMAGE,
    as_json: JsonOption = False,
) -> None:
    """Print an index's rows, model, kind, bytes, facets and recall."""
    for one in _modalities(modality):
        with needs_extra("index"):
            from dataset.index.lookup import open_index
        folder = find_index(indexed, store, model, one)
        index = open_index(folder)
        sys.stdout.write(_summary(index.record, index.facets(), as_json=as_json))


def _build(
    indexed: str,
    store: str,
    model: str | None,
    modality: Modality,
    out: str | None,
    *,
    restart: bool,
    as_json: bool,
    asked: dict[str, object],
) -> None:
    with needs_extra("index"):
        from dataset.index.jobs import build
        from dataset.index.plan import IndexOptions
    for one in _modalities(modality):
        options = IndexOptions(model=model or "", modality=one, **asked)  # type: ignore[arg-type]
        with PhaseBars() as bars:
            record = build(partial(_work, indexed, store, out, options), restart=restart, on_progress=bars.show)
        sys.stdout.write(_summary(record, None, as_json=as_json))
    _renew_card(indexed, store)


def _renew_card(indexed: str, store: str) -> None:
    """Let the card of a release say which indexes it has."""
    if is_release(indexed):
        refresh_card(open_named_release(indexed, store))


def _work(indexed: str, store: str, out: str | None, options: "IndexOptions", *, anew: bool) -> "Work":
    from dataset.index.plan import work_on_folder, work_on_release

    if not is_release(indexed):
        return work_on_folder(indexed, out, options, anew=anew)
    if out is not None:
        raise SearchIndexError("The index of a release is in the release's folder: leave out --out.")
    release = open_named_release(indexed, store)
    return work_on_release(
        release, replace(options, model=options.model or only_model(release, "embeddings")), anew=anew
    )


def only_model(release: Release, folder: str) -> str:
    """Return the only model of which a release has embeddings, or an index.

    Raises: SearchIndexError when there is none, or more than one.
    """
    place = release.path(folder)
    models = sorted({path[len(place) + 1 :].partition("/")[0] for path in release.store.list(place)})
    if len(models) != 1:
        said = f"{folder} of {', '.join(models)}: name one with --model" if models else f"no {folder} yet"
        made = (
            "" if models else ": run `dataset embeddings`" if folder == "embeddings" else ": run `dataset index build`"
        )
        raise SearchIndexError(f"{release.record.name} has {said}{made}.")
    return models[0]


def find_index(indexed: str, store: str, model: str | None, modality: str) -> Path:
    """Return the local folder of an index; `indexed` may be that folder itself.

    Raises: SearchIndexError when it is in an object store, from which nothing can be mapped.
    """
    place = Path(indexed)
    if (place / "index.json").is_file():
        return place
    if is_release(indexed):
        release = open_named_release(indexed, store, writable=False)
        opened, folder = release.store, release.path(index_path(model or only_model(release, "index"), modality))
    else:
        opened = Store.open(indexed, writable=False)
        models = sorted(
            {path.split("/")[1] for path in opened.list("index") if path.endswith(f"/{modality}/index.json")}
        )
        folder = index_path(model or (models[0] if models else "vectors"), modality)
    local = opened.local_path(f"{folder}/index.json")
    if local is None:
        raise SearchIndexError(f"{folder} is in {opened.uri}: copy it to a disk, and name that folder.")
    if not local.is_file():
        read_index_record(opened, folder)
    return local.parent


def _modalities(modality: Modality) -> list[str]:
    return ["image", "text"] if modality is Modality.BOTH else [modality.value]


def _summary(record: IndexRecord, facets: dict[str, int] | None, *, as_json: bool) -> str:
    said: dict[str, object] = {
        "name": record.name,
        "version": record.version,
        "model": record.model.name,
        "modality": record.modality,
        "kind": record.kind,
        "lists": record.lists,
        "near": asdict(record.near),
        "far": asdict(record.far),
        "dimensions": record.dimensions,
        "rows": record.rows,
        "bytes": record.bytes,
        "segments": [segment.name for segment in record.segments],
        "recall": [
            {"queries": row.queries, "selectivity": row.selectivity, "probes": row.probes, "usual": row.usual,
             "at_1": row.recall_at_1, "at_10": row.recall_at_10, "at_100": row.recall_at_100}
            for row in record.recall
        ],
    }  # fmt: skip
    if as_json:
        return strict_json.dumps(said | ({"facets": facets} if facets is not None else {})) + "\n"
    about = f"{record.model.name or 'vectors'}, {record.modality}, {record.kind}"
    lines = [f"{record.name} {record.version}".rstrip() + f": {about}"]
    lines.append(f"{record.rows:>15,}  rows of {record.dimensions} dimensions in {record.lists:,} lists")
    lines.append(f"{record.bytes / max(1, record.rows):>15,.0f}  bytes a row")
    for row in (row for row in record.recall if row.usual):
        share = "" if row.selectivity == 1 else f", filter that {row.selectivity:.0%} pass"
        lines.append(f"{row.recall_at_10:>15.4f}  recall at 10, {row.queries}, {row.probes} lists{share}")
    for name, rows in (facets or {}).items():
        lines.append(f"{rows:>15,}  {name}")
    return "\n".join([*lines, ""])
