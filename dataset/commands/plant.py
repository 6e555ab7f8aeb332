"""`dataset dedup plant`: recall of a search for near-duplicates on copies that are known."""

import json
import sys
from typing import Annotated, Any

import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, needs_extra
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.errors import DatasetError
from dataset.formats.releases import Release
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store


def plant_command(
    release: ReleaseArgument,
    store: StoreOption,
    pictures: Annotated[int, typer.Option(min=2, help="Pictures that are copied by each edit.")] = 200,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights of the model, if the release does not name them.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of pictures.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make edited copies of the release's own pictures, and count how many a search finds.

    The pictures must still be kept. Each of them is embedded once for each of 37 edits.
    """
    with needs_extra("release"):
        from dataset.dedup.explain import read_options
        from dataset.dedup.plant import draw_pictures, plant, write_results
        from dataset.dedup.vectors import Vectors
    with needs_extra():
        from dataset.models.clip import load_model
    opened = open_named_release(release, store)
    options = read_options(opened)
    embedded_by = Vectors(opened, options.model).model
    assert embedded_by is not None
    spec = find_model(opened, embedded_by.name, embedded_by.sha256, pretrained)
    drawn = draw_pictures(opened, pictures, seed)
    model = load_model(spec, Store.open(store, writable=False))
    with PhaseBars() as bars:
        results = plant(opened, options, model, drawn, bars.show)
    said = json.loads(write_results(opened, results, options, len(drawn)))
    sys.stdout.write(strict_json.dumps(said) + "\n" if as_json else _text(said))


def find_model(release: Release, name: str, sha256: str, pretrained: str | None) -> ModelRecipe:
    """Return the recipe of a model of embeddings, as the release's inputs name it.

    Raises: DatasetError when they do not, and `pretrained` is None.
    """
    if pretrained is not None:
        return ModelRecipe(name, pretrained, 0.0)
    for one in release.record.inputs:
        for model in one.models.values():
            if sha256 and model.get("sha256") == sha256:
                return ModelRecipe(str(model["model"]), model.get("pretrained"), 0.0)
    raise DatasetError(f"The release does not say where the weights of {name} are: give them with --pretrained.")


def _text(said: dict[str, Any]) -> str:
    lines = [
        f"{said['pictures']:,} pictures of {said['release']} {said['version']}, threshold {said['options']['at']:g}"
    ]
    lines.append(f"{'':22}   p5    p50   p95   of those at t   of all (95 % interval)")
    for one in said["edits"]:
        cosines = " ".join(f"{value:.3f}" for value in one["cosine"])
        index, whole = one["index_recall"], one["recall"]
        share = "    -" if index["share"] is None else f"{index['share']:.3f}"
        low, high = whole["interval"]
        mark = "" if one["is_copy"] else "  (another picture)"
        whole_share = "    -" if whole["share"] is None else f"{whole['share']:.3f}"
        lines.append(f"{one['edit']:22} {cosines}   {share:>13}   {whole_share} ({low:.3f}-{high:.3f}){mark}")
    return "\n".join([*lines, ""])
