"""`dataset heads` and `dataset safety`: put heads and safety prompts into the store, and list the heads."""

import hashlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption, needs_extra
from dataset.errors import said_by
from dataset.models.files import is_name
from dataset.safety.prompts import SafetyError, parse_safety_prompts
from dataset.store.store import Store
from dataset.tags.heads import (
    CARD_SUFFIX,
    STORE_FOLDER,
    SUFFIX,
    HeadError,
    Kind,
    add_head,
    card_beside,
    is_head,
    read_head_file,
)

heads_app = typer.Typer(no_args_is_help=True, help="Put heads that tag embeddings into the store, and list them.")
safety_app = typer.Typer(no_args_is_help=True, help="Put safety prompts into the store.")


@heads_app.command("add")
def heads_add(
    name: Annotated[str, typer.Argument(help="Recipes refer to it as store:heads/NAME.safetensors.")],
    weights: Annotated[
        Path, typer.Option(help="Output of train-head or train-classifier, or a published head of LAION (state dict).")
    ],
    store: StoreOption,
    model: Annotated[
        str, typer.Option(help="For a published head: the model whose embeddings it reads, e.g. 'ViT-L-14 openai'.")
    ] = "",
) -> None:
    """Load a head once, put it into the store, and print its entry for a recipe.

    The model card beside it, as train-head and train-classifier write one, is put there, too.
    """
    if is_head(weights):
        data = weights.read_bytes()
        file = read_head_file(weights)
        if file.kind is Kind.EMBEDDING:
            file.head()
        else:
            with needs_extra():
                from dataset.tags.picture_heads import load_picture_head
            load_picture_head(file, "cpu")
    else:
        data = _converted(weights, model)
    target, card = Store.open(store), card_beside(weights)
    path = add_head(target, name, data)
    if card is not None:
        target.put(f"{STORE_FOLDER}/{name}{CARD_SUFFIX}", card)
    sys.stdout.write(strict_json.dumps({"head": path, "sha256": hashlib.sha256(data).hexdigest()}) + "\n")


@heads_app.command("list")
def heads_list(store: StoreOption) -> None:
    """List the heads in the store, one per line."""
    source = Store.open(store, writable=False)
    source.require_folder()
    for path in source.list(STORE_FOLDER):
        if path.endswith(SUFFIX):
            sys.stdout.write(f"store:{path}\n")


@safety_app.command("add")
def safety_add(
    file: Annotated[Path, typer.Argument(help="TOML file of prompts, in the form of dataset/safety/prompts_1.toml.")],
    store: StoreOption,
) -> None:
    """Read safety prompts once, put them into the store, and print their entry for a recipe."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SafetyError(f"Cannot read {file} ({error.strerror}): name a file of prompts.") from error
    if not is_name(file.stem):
        raise SafetyError(f"Prompts in the store cannot be named {file.stem!r}: use letters, digits, '.', '-' and '_'.")
    prompts = parse_safety_prompts(data)
    target, path = Store.open(store), f"safety/{file.stem}.toml"
    if target.exists(path) and target.read(path) != data:
        raise SafetyError(
            f"The store has other prompts in {path}, which parts may have been made with: rename your file."
        )
    target.put(path, data)
    sys.stdout.write(strict_json.dumps({"prompts": f"store:{path}", "sha256": prompts.sha256}) + "\n")


def _converted(weights: Path, model: str) -> bytes:
    """Return a published head in Shoal's format."""
    with needs_extra():
        from dataset.tags.picture_heads import converted_detector, is_detector_state
        from dataset.tags.published_heads import published_head, read_state
    state = read_state(weights)
    if is_detector_state(state):
        return converted_detector(state, weights.name)
    if not model:
        raise HeadError("A published head does not name the model whose embeddings it reads: add --model NAME.")
    try:
        return published_head(state, model, weights.name).to_bytes()
    except (ValueError, LookupError) as error:
        raise HeadError(f"{weights} holds tensors of other shapes ({said_by(error)}): its file is damaged.") from error
