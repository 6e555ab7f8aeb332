"""`dataset embed`: embeddings of a second model, for a run's samples or for any WebDataset tars."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import needs_extra
from dataset.formats.embeddings import EmbeddingsError
from dataset.formats.manifest import OutputKind, outputs
from dataset.formats.release_embeddings import model_folder_name
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store


def embed_command(
    target: Annotated[str, typer.Option(help="Folder or URI for the embeddings; they go into TARGET/MODEL.")],
    model: Annotated[str, typer.Option(help="Model name of open_clip, or hf-hub:ORGANISATION/NAME.")],
    pretrained: Annotated[
        str | None, typer.Option(help="Weights: open_clip's tag, a file, a folder, or store:models/NAME.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(help="Embed the WebDataset tars in this folder or URI, with subfolders.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(envvar="SHOAL_STORE", help="Store of a run, used when --folder is not given.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Embed only this run; default: all runs of the store.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: a GPU if present.")] = None,
) -> None:
    """Embed kept samples, or a folder of tars, with a second model.

    An interrupted call continues when it is repeated. Prints one JSON object
    per shard: name, embedded, lost (a count by reason), other_members,
    skipped, error.
    """
    with needs_extra():
        from dataset.embed.embed import embed_all
        from dataset.embed.sources import sources_of_folder, sources_of_parts
        from dataset.models.clip import load_model
        from dataset.models.pipeline import Pipeline, decoder_processes
    if folder is None and store is None:
        raise typer.BadParameter("give --folder with tars, or --store of a run")
    source = Store.open(folder or str(store), writable=False)
    if folder is not None:
        sources = sources_of_folder(source)
    else:
        parts = outputs(source, kind=OutputKind.PART, run=run)
        sources = sources_of_parts(source, (part.path for part in parts))
    into = Store.open(target)
    loaded = load_model(ModelRecipe(model, pretrained, 0.0), source, device)
    failed = False
    with Pipeline(decoder_processes(device)) as pipeline:
        for report in embed_all(sources, loaded, pipeline, into, model_folder_name(model)):
            sys.stdout.write(strict_json.dumps(asdict(report)) + "\n")
            failed |= report.error is not None
    if failed:
        raise EmbeddingsError("Some shards could not be embedded: correct the errors above and repeat the call.")
