"""`dataset recipe`: print a complete recipe, or check one."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dataset import strict_json
from dataset.recipe.image_rules import EncodeFormat, ResizeMode
from dataset.recipe.recipe import Recipe, RecipeError

MAX_SECTIONS = 8
"""Maximum number of levels above a value for --set; a recipe has three."""


def recipe_command(
    file: Annotated[Path | None, typer.Argument(help="Recipe to complete and check; default: LAION's rules.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value: models.en.threshold=0.3. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    resize_mode: Annotated[
        ResizeMode | None, typer.Option(metavar="MODE", help=f"How --image-size is applied: {', '.join(ResizeMode)}.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Size in pixels.")] = None,
    encode_format: Annotated[EncodeFormat | None, typer.Option(help="Format of the stored pictures.")] = None,
    encode_quality: Annotated[int | None, typer.Option(help="Quality, 0 to 100.")] = None,
    min_image_size: Annotated[int | None, typer.Option(help="Minimum pixels of the shorter side.")] = None,
    max_aspect_ratio: Annotated[
        float | None, typer.Option(help="Maximum ratio of the longer to the shorter side; 0 means no limit.")
    ] = None,
) -> None:
    """Print a complete recipe: LAION's, or a file's.

    --set changes any value; the options named as in img2dataset change image.*.
    """
    given = _read_file(file) if file else {}
    image: dict[str, object] = {"resize_mode": resize_mode, "size": image_size, "encode_format": encode_format}
    image |= {"encode_quality": encode_quality, "min_image_size": min_image_size, "max_aspect_ratio": max_aspect_ratio}
    options = [f"image.{name}={value}" for name, value in image.items() if value is not None]
    for override in [*options, *(overrides or [])]:
        _override(given, override)
    text = strict_json.dumps(Recipe.from_json(given).to_json(), indent=2, ensure_ascii=out is None)
    if out is None:
        sys.stdout.write(text + "\n")
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"Cannot write {out} ({error.strerror}): name another file.") from error


def _read_file(file: Path) -> dict[str, object]:
    try:
        value = _parse(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"Cannot read {file} ({error.strerror}): name the file of a recipe.") from error
    except ValueError as error:
        raise RecipeError(f"{file} is not valid JSON ({error}): correct it.") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{file} is not a JSON object: start from the output of `dataset recipe`.")
    return value


def _parse(text: str) -> Any:
    """Parse JSON strictly.

    Raises: ValueError when the text is not JSON, is nested too deeply, or contains half a surrogate pair.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        strict_json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number in JSON")


def _override(recipe: dict[str, object], override: str) -> None:
    """Set one value of a recipe; a value that is not valid JSON is taken as a string."""
    path, equals, value = override.partition("=")
    *sections, key = path.split(".")
    if not equals or not key or len(sections) > MAX_SECTIONS:
        raise RecipeError(f"Cannot apply --set {override!r}: write it as --set models.en.threshold=0.3.")
    section = recipe
    for name in sections:
        inner = section.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"Cannot apply --set {override!r}: {name} is a value, not a section of the recipe.")
        section = inner
    try:
        section[key] = _parse(value)
    except ValueError:
        section[key] = value
