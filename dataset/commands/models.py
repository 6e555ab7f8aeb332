"""`dataset models`: put models into the store, and list open_clip's."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption, needs_extra
from dataset.models.files import add_model, gathered
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store

models_app = typer.Typer(no_args_is_help=True, help="Put models into the store, and list open_clip's.")


@models_app.command("add")
def models_add(
    name: Annotated[str, typer.Argument(help="Recipes refer to it as store:models/NAME.")],
    weights: Annotated[Path, typer.Option(help="Weights: safetensors, or a state_dict saved by torch.save.")],
    config: Annotated[Path, typer.Option(help="open_clip_config.json with model_cfg and preprocess_cfg.")],
    store: StoreOption,
    tokenizer: Annotated[
        list[Path] | None, typer.Option(help="A file of the model's own tokenizer. Repeatable.")
    ] = None,
    text_tower: Annotated[
        Path | None,
        typer.Option(help="Folder in sentence-transformers' layout: the model that embeds texts instead."),
    ] = None,
) -> None:
    """Load a model once, put it into the store, and print its entry for a recipe."""
    target = Store.open(store)
    with needs_extra():
        from dataset.models.clip import load_model
    tower: dict[str, Path] = {}
    if text_tower:
        with needs_extra("multilingual"):
            from dataset.models.text_tower import text_tower_files
        tower = text_tower_files(text_tower)
    with gathered(weights, config, tokenizer or [], tower) as folder:
        loaded = load_model(ModelRecipe(name, str(folder), 0.0), device="cpu")
        add_model(target, name, folder)
    entry = {"model": name, "pretrained": f"store:models/{name}", "sha256": loaded.checksums.weights}
    sys.stdout.write(strict_json.dumps(entry | {"config_sha256": loaded.checksums.config}) + "\n")


@models_app.command("list")
def models_list() -> None:
    """List open_clip's models, one `model<TAB>pretrained` per line."""
    with needs_extra():
        from dataset.models.clip import pretrained_names
    for name, tag in pretrained_names():
        sys.stdout.write(f"{name}\t{tag}\n")
