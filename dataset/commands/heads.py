"""The commands for heads and safety prompts: put them into the store, and see what lies there."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from dataset import strict_json
from dataset.commands.options import StoreOption
from dataset.errors import said_by
from dataset.models.files import ModelError, is_name
from dataset.safety.prompts import SafetyError, parse_safety_prompts
from dataset.store.store import Store
from dataset.tags.heads import STORE_FOLDER, SUFFIX, HeadError, Kind, add_head, is_head, read_head_file

heads_app = typer.Typer(no_args_is_help=True, help="Heads on embeddings, in the store.")
safety_app = typer.Typer(no_args_is_help=True, help="Safety prompts, in the store.")


@heads_app.command("add")
def heads_add(
    name: Annotated[str, typer.Argument(help="The recipe then says store:heads/NAME.safetensors.")],
    weights: Annotated[Path, typer.Option(help="One of LAION's heads as a state dict, or what train-head wrote.")],
    store: StoreOption,
    model: Annotated[str, typer.Option(help="Whose embeddings a published head reads, e.g. 'ViT-L-14 openai'.")] = "",
) -> None:
    """Put a head into the store, after loading it once; prints what a recipe says of it."""
    if is_head(weights):
        data = weights.read_bytes()
        file = read_head_file(weights)
        if file.kind is Kind.EMBEDDING:
            file.head()
        else:
            _published()[1].load_picture_head(file, "cpu")
    else:
        data = _converted(weights, model)
    place = add_head(Store.open(store), name, data)
    sys.stdout.write(strict_json.dumps({"head": place, "sha256": hashlib.sha256(data).hexdigest()}) + "\n")


@heads_app.command("list")
def heads_list(store: StoreOption) -> None:
    """List the heads in the store, a line each."""
    source = Store.open(store, writable=False)
    source.require_folder()
    for path in source.list(STORE_FOLDER):
        if path.endswith(SUFFIX):
            sys.stdout.write(f"store:{path}\n")


@safety_app.command("add")
def safety_add(
    file: Annotated[Path, typer.Argument(help="A file of prompts, written as dataset/safety_1.toml is.")],
    store: StoreOption,
) -> None:
    """Put safety prompts of your own into the store, after reading them once; prints what a recipe says of them."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SafetyError(f"{file} cannot be read ({error.strerror}): name a file of prompts.") from error
    if not is_name(file.stem):
        raise SafetyError(f"{file.stem!r} cannot name prompts in the store: use letters, digits, '.', '-' and '_'.")
    prompts = parse_safety_prompts(data)
    target, place = Store.open(store), f"safety/{file.stem}.toml"
    if target.exists(place) and target.read(place) != data:
        raise SafetyError(f"The store has other prompts at {place}: give the file a new name, parts may rely on it.")
    target.put(place, data)
    sys.stdout.write(strict_json.dumps({"prompts": f"store:{place}", "sha256": prompts.sha256}) + "\n")


def _converted(weights: Path, model: str) -> bytes:
    """Turn a published head into a file of our format."""
    published, pictures = _published()
    state = published.read_state(weights)
    if pictures.is_picture_state(state):
        return bytes(pictures.picture_head_bytes(state, weights.name))
    if not model:
        raise HeadError("A published head does not say whose embeddings it reads: say it with --model NAME.")
    try:
        return bytes(published.published_head(state, model, weights.name).to_bytes())
    except (ValueError, LookupError) as error:
        raise HeadError(f"{weights} holds tensors of other shapes ({said_by(error)}): its file is damaged.") from error


def _published() -> tuple[ModuleType, ModuleType]:
    try:
        from dataset.tags import picture_heads, published_heads
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: install Shoal with its extra [models].") from error
    return published_heads, picture_heads
