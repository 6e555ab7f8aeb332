"""`dataset search`: the nearest rows of a text, a picture or a vector, in this process."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from dataset import strict_json
from dataset.commands.index import IndexedArgument, Modality, ModelOption, find_index
from dataset.commands.options import StoreOption, needs_extra
from dataset.commands.releases import is_release, open_named_release
from dataset.formats.index_files import IndexRecord, SearchIndexError
from dataset.formats.npy import open_rows
from dataset.pictures.open_stored import open_stored
from dataset.recipe.recipe import ModelRecipe
from dataset.store.local_paths import is_file
from dataset.store.store import Store

if TYPE_CHECKING:
    from dataset.models.clip import ClipModel


def search_command(
    indexed: IndexedArgument,
    store: StoreOption,
    text: Annotated[str | None, typer.Argument(help="Text to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Search for rows near this picture's file.")] = None,
    vector: Annotated[Path | None, typer.Option(help="Search for rows near the vectors in this .npy file.")] = None,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter", metavar="A,B=C", help="Conditions, such as safe,lang=de,min-side=512,host=example.com."
        ),
    ] = "",
    k: Annotated[int, typer.Option("--k", min=1, help="Results.")] = 10,
    collapse: Annotated[
        bool, typer.Option("--collapse/--all", help="Show one of several near-duplicates, or all.")
    ] = True,
    model: ModelOption = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights for the query, if the release does not name its model's.")
    ] = None,
    modality: Annotated[Modality, typer.Option(help="Search the vectors of pictures or of texts.")] = Modality.IMAGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per result.")] = False,
) -> None:
    """Print the rows nearest to a text, a picture or a vector, best first."""
    if sum(one is not None for one in (text, image, vector)) != 1:
        raise typer.BadParameter("give a text, --image or --vector")
    with needs_extra("index"):
        from dataset.index.filters import check_filter, parse_filter
        from dataset.index.lookup import open_index
    where = parse_filter(filter_)
    index = open_index(find_index(indexed, store, model, modality.value))
    check_filter(where, index.facets())  # before a model is loaded
    if vector is not None:
        queries = _vectors(vector)
    else:
        queries = embed_query(index.record, indexed, store, text, image, pretrained)
    for hits in index.search(queries, k, where=where, collapse=collapse):
        rows = index.rows(hits.ids)
        for near, row in zip(hits.similarities.tolist(), rows, strict=True):
            if row is not None:
                sys.stdout.write(_shown(row, near, as_json=as_json))
        if not as_json:
            sys.stdout.write(f"{len(rows):,} of {hits.total:,} rows that pass the filter\n")


def _shown(row: dict[str, Any], near: float, *, as_json: bool) -> str:
    if as_json:
        return strict_json.dumps({"id": row["id"], "similarity": round(near, 6)} | row, ensure_ascii=False) + "\n"
    caption = " ".join(str(row.get("caption") or "").split())
    return f"{near:.4f}  {row['id']}  {row.get('url') or ''}\n        {caption[:72]}\n"


def _vectors(path: Path) -> "np.ndarray[Any, np.dtype[np.float32]]":
    if not is_file(path):
        raise SearchIndexError(f"{path} is not a file: name a .npy file with one vector per row.")
    rows = open_rows(Store.open(str(path.parent), writable=False), path.name)
    return rows.read(0, rows.rows).astype(np.float32)


def embed_query(
    record: IndexRecord, indexed: str, store: str, text: str | None, image: Path | None, pretrained: str | None
) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return the query's vector -> (1, D) float32.

    Raises: ModelError; SearchIndexError when the model is not the index's.
    """
    loaded = query_model(record, indexed, store, pretrained)
    if text is not None:
        return loaded.embed_texts([text])
    assert image is not None
    picture = open_stored(image.read_bytes()) if is_file(image) else None
    if picture is None:
        raise SearchIndexError(f"{image} is not a picture that can be read: give a JPEG, PNG or WebP file.")
    return loaded.embed_images([picture])


def query_model(record: IndexRecord, indexed: str, store: str, pretrained: str | None) -> "ClipModel":
    """Load the model of an index, which embeds queries.

    Raises: ModelError; SearchIndexError when the model is not the index's.
    """
    with needs_extra():
        from dataset.models.clip import load_model
    spec = ModelRecipe(record.model.name, pretrained, 0.0) if pretrained else _spec(record, indexed, store)
    loaded = load_model(spec, Store.open(store, writable=False))
    if record.model.sha256 and loaded.sha256 != record.model.sha256:
        raise SearchIndexError(
            f"The index is of {record.model.name} with the weights {record.model.sha256[:12]}, and {spec.pretrained} "
            f"has {loaded.sha256[:12]}: vectors of different models cannot be compared."
        )
    return loaded


def _spec(record: IndexRecord, indexed: str, store: str) -> ModelRecipe:
    """Return the recipe of the index's model, as the release's inputs name it."""
    if is_release(indexed):
        for one in open_named_release(indexed, store, writable=False).record.inputs:
            for model in one.models.values():
                if record.model.sha256 and model.get("sha256") == record.model.sha256:
                    return ModelRecipe(str(model["model"]), model.get("pretrained"), 0.0)
    raise SearchIndexError(
        f"The release does not name the weights of {record.model.name or 'the model'}: give them with --pretrained."
    )
