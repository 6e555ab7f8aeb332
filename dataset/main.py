"""The command `dataset`: recipes, models, reports and releases. stdout is data, stderr is talk."""

import io
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console

from dataset import strict_json
from dataset.commands.embeddings import embeddings_command
from dataset.commands.heads import heads_app, safety_app
from dataset.commands.options import StoreOption
from dataset.commands.publish import publish_command
from dataset.commands.reshard import reshard_command
from dataset.commands.select import select_command
from dataset.commands.side_tables import captions_app, similarity_command, tags_app
from dataset.commands.stats import stats_command
from dataset.commands.trace import trace_command
from dataset.commands.training import calibrate, train_head
from dataset.errors import DatasetError
from dataset.formats import manifest as manifests
from dataset.formats.embeddings import EmbeddingsError
from dataset.formats.release_embeddings import model_folder_name
from dataset.models.files import ModelError, add_model, gathered
from dataset.recipe.image_rules import EncodeFormat, ResizeMode
from dataset.recipe.recipe import ModelRecipe, Recipe, RecipeError
from dataset.report.report import write_report
from dataset.store.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models_app = typer.Typer(no_args_is_help=True, help="Models in the store, and those that open_clip knows.")
app.add_typer(models_app, name="models")
app.add_typer(heads_app, name="heads")
app.add_typer(safety_app, name="safety")
app.command("train-head")(train_head)
app.command()(calibrate)
app.command("publish")(publish_command)
app.command("trace")(trace_command)
app.command("embeddings")(embeddings_command)
app.command("select")(select_command)
app.command("reshard")(reshard_command)
app.add_typer(tags_app, name="tags")
app.add_typer(captions_app, name="captions")
app.command("similarity")(similarity_command)
app.command("stats")(stats_command)
talk = Console(stderr=True)

MAX_SECTIONS = 8
"""Above a value of the recipe; there are three."""


@app.callback()
def dataset() -> None:
    """What the data is: recipes, models, reports, releases."""


@app.command()
def recipe(
    file: Annotated[Path | None, typer.Argument(help="Recipe to check; without it, the defaults.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For example models.en.threshold=0.3")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write it here and not to stdout.")] = None,
    resize_mode: Annotated[ResizeMode | None, typer.Option(help="What the image size means.")] = None,
    image_size: Annotated[int | None, typer.Option(help="In pixels.")] = None,
    encode_format: Annotated[EncodeFormat | None, typer.Option(help="What pictures are stored as.")] = None,
    encode_quality: Annotated[int | None, typer.Option(help="0 to 100.")] = None,
    min_image_size: Annotated[int | None, typer.Option(help="Pixels of the shorter side, at least.")] = None,
    max_aspect_ratio: Annotated[float | None, typer.Option(help="Longer side by shorter side; 0: any.")] = None,
) -> None:
    """Print a recipe in full: LAION's, or a file's, with what --set changes; img2dataset's flags set image.*."""
    written = _read_json(file) if file else {}
    image: dict[str, object] = {"resize_mode": resize_mode, "size": image_size, "encode_format": encode_format}
    image |= {"encode_quality": encode_quality, "min_image_size": min_image_size, "max_aspect_ratio": max_aspect_ratio}
    flags = [f"image.{name}={value}" for name, value in image.items() if value is not None]
    for override in [*flags, *(overrides or [])]:
        _override(written, override)
    text = strict_json.dumps(Recipe.from_json(written).to_json(), indent=2, ensure_ascii=out is None)
    if out is None:
        sys.stdout.write(text + "\n")
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{out} cannot be written ({error.strerror}): name another file.") from error


@models_app.command("add")
def models_add(
    name: Annotated[str, typer.Argument(help="The recipe then says store:models/NAME.")],
    weights: Annotated[Path, typer.Option(help="safetensors, or a state_dict by torch.save.")],
    config: Annotated[Path, typer.Option(help="open_clip_config.json: model_cfg and preprocess_cfg.")],
    store: StoreOption,
    tokenizer: Annotated[list[Path] | None, typer.Option(help="A file of the model's own tokenizer.")] = None,
    text_tower: Annotated[
        Path | None, typer.Option(help="Folder of sentence-transformers' layout, to embed the texts in its place.")
    ] = None,
) -> None:
    """Put a model into the store, after loading it once; prints what a recipe says of it."""
    target = Store.open(store)
    tower = _text_tower().text_tower_files(text_tower) if text_tower else {}
    with gathered(weights, config, tokenizer or [], tower) as folder:
        loaded = _clip().load_model(ModelRecipe(name, str(folder), 0.0), device="cpu")
        add_model(target, name, folder)
    entry = {"model": name, "pretrained": f"store:models/{name}", "sha256": loaded.checksums.weights}
    sys.stdout.write(strict_json.dumps(entry | {"config_sha256": loaded.checksums.config}) + "\n")


@models_app.command("list")
def models_list() -> None:
    """List open_clip's names with their tags, a line each: what a recipe's model and pretrained can be."""
    for name, tag in _clip().pretrained_names():
        sys.stdout.write(f"{name}\t{tag}\n")


@app.command()
def report(
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    manifest: Annotated[
        str, typer.Option(help="Path in the store, as `tracker manifest` wrote it.")
    ] = manifests.MANIFEST,
    title: Annotated[str, typer.Option(help="The page's heading.")] = "Shoal",
) -> None:
    """Write one HTML page on what the manifest lists: samples kept and dropped, similarities, outcomes, languages."""
    source = Store.open(store, writable=False)
    write_report(source, source.read_table(manifest), out, title)
    sys.stdout.write(f"{out}\n")


@app.command()
def embed(
    target: Annotated[str, typer.Option(help="Folder or object store URI for the embeddings, under the model's name.")],
    model: Annotated[str, typer.Option(help="One of open_clip's names, or an hf-hub: id.")],
    pretrained: Annotated[str | None, typer.Option(help="Tag, file, folder or store:models/NAME.")] = None,
    folder: Annotated[str | None, typer.Option(help="WebDataset tars of anyone's, in it and below it.")] = None,
    store: Annotated[str | None, typer.Option(envvar="SHOAL_STORE", help="Without --folder: the run's store.")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run's parts; default: all of the manifest.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; default: the GPU if there is one.")] = None,
) -> None:
    """Embed kept samples, or a folder of tars, with a second model; called again, it goes on where it was.

    A line a shard: {"name", "embedded", "lost" (a count by reason), "other_members", "skipped", "error"}.
    """
    clip = _clip()
    from dataset.embed import embed as embedding
    from dataset.embed import sources as embed_sources
    from dataset.models.pipeline import Pipeline, decoder_processes

    if folder is None and store is None:
        raise typer.BadParameter("name the tars' --folder, or the --store of a run")
    source = Store.open(folder or str(store), writable=False)
    if folder is not None:
        sources = embed_sources.sources_of_folder(source)
    else:
        parts = manifests.outputs(source, kind=manifests.OutputKind.PART, run=run)
        sources = embed_sources.sources_of_parts(source, (part.path for part in parts))
    into = Store.open(target)
    loaded = clip.load_model(ModelRecipe(model, pretrained, 0.0), source, device)
    failed = False
    with Pipeline(decoder_processes(device)) as pipeline:
        for one in embedding.embed_all(sources, loaded, pipeline, into, model_folder_name(model)):
            sys.stdout.write(strict_json.dumps(asdict(one)) + "\n")
            failed |= one.error is not None
    if failed:
        raise EmbeddingsError("Some shards could not be embedded: see their error above, and call it again.")


def _text_tower() -> ModuleType:
    """Import the text tower's layout: it brings torch."""
    try:
        from dataset.models import text_tower
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: install Shoal with [models] and `transformers`.") from error
    return text_tower


def _clip() -> ModuleType:
    """Import what runs models only where a command needs it: it takes seconds, and the plain install has no torch."""
    try:
        from dataset.models import clip
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: install Shoal with its extra [models].") from error
    return clip


def _read_json(file: Path) -> dict[str, object]:
    try:
        written = _parsed(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{file} cannot be read ({error.strerror}): name a recipe's file.") from error
    except ValueError as error:
        raise RecipeError(f"{file} is no JSON ({error}): mend it.") from error
    if not isinstance(written, dict):
        raise RecipeError(f"{file} holds no JSON object: `dataset recipe` prints one to begin with.")
    return written


def _parsed(text: str) -> Any:
    """Parse JSON, strictly.

    Raises: ValueError when it is none, is nested too deeply, or holds half a character.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        strict_json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number in JSON")


def _override(written: dict[str, object], override: str) -> None:
    """Set one value in a recipe's JSON; what is no JSON is taken as a text."""
    path, equals, value = override.partition("=")
    *sections, key = path.split(".")
    if not equals or not key or len(sections) > MAX_SECTIONS:
        raise RecipeError(f"{override!r} sets nothing: write --set models.en.threshold=0.3.")
    place = written
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{override!r} names no value of the recipe: {section} has nothing below it.")
        place = inner
    try:
        place[key] = _parsed(value)
    except ValueError:
        place[key] = value


def main() -> None:
    """Run the command; an error is one sentence on stderr and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a character gets a ? for it
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except DatasetError as error:
        talk.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
