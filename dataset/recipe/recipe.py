"""The recipe: everything that determines a crawl's data. It is fixed with the run and sent with each claim.

Invariant: a `Recipe` is always valid, complete and immutable. `from_json(to_json())` returns an equal one, and two
recipes have the same digest exactly if they are equal. Missing values have LAION-5B's defaults.

A model's checksums are null until the first filter worker loads the model and settles them; after that, workers with
other weights or another configuration are refused. There are two checksums, because the same weights with another
preprocessing give other similarities.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self, TypeVar, get_type_hints

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.recipe.extra_columns import ExtraError, arrow_type
from dataset.recipe.image_rules import ImageRules
from dataset.recipe.tags import SafetyRecipe, TagsRecipe, read_safety, read_tags

VERSION = 1
HUB_PREFIX = "hf-hub:"
STORE_PREFIX = "store:"

Section = TypeVar("Section", "TextRecipe", "LanguageRecipe", "ModelRecipe", "EmbeddingsRecipe")


class RecipeError(DatasetError):
    """The recipe is invalid."""


class RecipeMismatchError(DatasetError):
    """This worker has loaded another model than the crawl's."""


class LanguageRule(StrEnum):
    """How an alt text gets its subset."""

    LAION = "laion"
    """CLD3's answer is accepted if it calls itself reliable."""
    LENGTH_AWARE = "length-aware"
    """The shorter the text, the higher the required probability."""


class ModelRole(StrEnum):
    """The two roles of models: samples of subset `en` are scored by the first, all others by the second."""

    EN = "en"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """Limits for the length of an alt text after cleaning, in characters (code points)."""

    min_characters: int = 5  # LAION-5B
    max_characters: int = 1_000

    def __post_init__(self) -> None:
        if not 1 <= self.min_characters <= self.max_characters:
            raise RecipeError("The recipe's text.min_characters must be from 1 to text.max_characters.")


@dataclass(frozen=True, slots=True)
class LanguageRecipe:
    """The rule for languages."""

    rule: LanguageRule = LanguageRule.LAION


@dataclass(frozen=True, slots=True)
class Checksums:
    """The identity of a model, in hex: of the weights' file, and of architecture with preprocessing."""

    weights: str
    config: str


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """A model, and the cosine at or above which a pair is kept.

    `pretrained` is an open_clip tag, a local file, a local folder or `store:models/NAME`; null if `model` is an
    `hf-hub:` id, which includes its weights. A folder contains its own configuration; `model` is then only a name.
    """

    model: str
    pretrained: str | None
    threshold: float
    sha256: str | None = None
    config_sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise RecipeError("A model in the recipe has an empty name: give a name of open_clip or an hf-hub: id.")
        if self.model.startswith(HUB_PREFIX) != (self.pretrained is None):
            raise RecipeError(
                f"The recipe's model {self.model} has pretrained {strict_json.dumps(self.pretrained)}: an hf-hub: id "
                "brings its own weights (null), any other name needs a tag, a file or a folder."
            )
        if self.pretrained is not None and not self.pretrained.strip():
            raise RecipeError(f"The recipe's model {self.model} has no weights: give a tag, a file or a folder.")
        if not -1 <= self.threshold <= 1:
            raise RecipeError(f"The threshold {self.threshold} of {self.model} is not a cosine: give -1 to 1.")
        for checksum in (self.sha256, self.config_sha256):
            if checksum is not None and (len(checksum) != 64 or not set(checksum) <= set("0123456789abcdef")):
                raise RecipeError(f"{checksum!r} is not a sha256: give 64 hexadecimal digits in lower case, or null.")


@dataclass(frozen=True, slots=True)
class ModelsRecipe:
    """One model per role. Thresholds are LAION-5B's; LAION chose 0.26 for a model with the same text tower."""

    en: ModelRecipe = ModelRecipe("ViT-B-32-quickgelu", "openai", 0.28)
    other: ModelRecipe = ModelRecipe("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k", 0.26)

    def of(self, role: ModelRole) -> ModelRecipe:
        """Return the model in a role."""
        return self.en if role is ModelRole.EN else self.other


@dataclass(frozen=True, slots=True)
class EmbeddingsRecipe:
    """Whether the filter keeps a part's embeddings: 2 KB per sample for ViT-B/32."""

    keep: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a crawl's data."""

    text: TextRecipe = field(default_factory=TextRecipe)
    language: LanguageRecipe = field(default_factory=LanguageRecipe)
    page_opt_outs: bool = True
    """Drop the images of pages with noai or noimageai."""
    image: ImageRules = field(default_factory=ImageRules)
    models: ModelsRecipe = field(default_factory=ModelsRecipe)
    filter: bool = True
    """False: the run ends with its shards, and no model sees them."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Columns of a link list that are carried into the shards, by name and type."""
    sha256_column: str | None = None
    """One of them: the sha256 (hex) that a picture had when the list was made; another picture is not kept."""
    embeddings: EmbeddingsRecipe = field(default_factory=EmbeddingsRecipe)
    tags: TagsRecipe = field(default_factory=TagsRecipe)
    safety: SafetyRecipe = field(default_factory=SafetyRecipe)

    @classmethod
    def from_json(cls, recipe: object) -> Self:
        """Read a recipe; missing values have their defaults.

        Raises: RecipeError (ImageRulesError for the image, TagRecipeError for tags and safety) for an unknown key or an
        invalid value.
        """
        sections = dict(_object(recipe, "The recipe"))
        if sections.pop("version", VERSION) != VERSION:
            raise RecipeError(f"The recipe's version is not {VERSION}: use a newer release of Shoal.")
        _refuse_unknown(sections, cls, "The recipe")
        models = _object(sections.get("models", {}), "The recipe's models")
        _refuse_unknown(models, ModelsRecipe, "The recipe's models")
        defaults = ModelsRecipe()
        return cls(
            text=_read(TextRecipe(), sections.get("text", {}), "text"),
            language=_read(LanguageRecipe(), sections.get("language", {}), "language"),
            image=ImageRules.from_json(_object(sections.get("image", {}), "The recipe's image")),
            page_opt_outs=_flag(sections.get("page_opt_outs", True), "page_opt_outs"),
            filter=_flag(sections.get("filter", True), "filter"),
            extra=(extra := _read_extra(sections.get("extra", {}))),
            sha256_column=_read_sha256_column(sections.get("sha256_column"), extra),
            models=ModelsRecipe(
                **{role: _read_model(defaults.of(role), models.get(role, {}), f"models.{role}") for role in ModelRole}
            ),
            embeddings=_read(EmbeddingsRecipe(), sections.get("embeddings", {}), "embeddings"),
            tags=read_tags(sections.get("tags", {})),
            safety=read_safety(sections.get("safety", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """Return every value, as `from_json` reads it."""
        return {"version": VERSION, **asdict(self), "image": self.image.to_json()}

    def digest(self) -> str:
        """Return the sha256 (hex) of the canonical JSON: sorted keys, no white space."""
        canonical = strict_json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def settle(recipe: Recipe, loaded: Mapping[str, Checksums]) -> Recipe:
    """Return the recipe with the checksums of the loaded models, by role, where it had none.

    Raises: RecipeMismatchError when the recipe has other checksums: this worker has other weights or preprocessing.
    """
    models = recipe.models
    for name, checksums in loaded.items():
        role = ModelRole(name)
        spec = models.of(role)
        for what, fixed, found in (
            ("weights", spec.sha256, checksums.weights),
            ("configuration", spec.config_sha256, checksums.config),
        ):
            if fixed not in (None, found):
                raise RecipeMismatchError(
                    f"This worker's {what} of {spec.model} have sha256 {found[:12]}…, but the crawl's have "
                    f"{str(fixed)[:12]}…: give this worker the crawl's model, or start a new run."
                )
        settled = replace(spec, sha256=checksums.weights, config_sha256=checksums.config)
        models = replace(models, en=settled) if role is ModelRole.EN else replace(models, other=settled)
    return replace(recipe, models=models)


def _flag(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise RecipeError(f"The recipe's {where} is {strict_json.dumps(value)}: give true or false.")


def _read_extra(section: object) -> Mapping[str, str]:
    given = _object(section, "The recipe's extra")
    for name, kind in given.items():
        try:
            arrow_type(kind)
        except ExtraError as error:
            raise RecipeError(f"The recipe's extra column {name!r} cannot be kept: {error}") from error
    return dict(given)


def _read_sha256_column(name: object, extra: Mapping[str, str]) -> str | None:
    if name is None or (isinstance(name, str) and extra.get(name) == "string"):
        return name
    raise RecipeError(f"The recipe's sha256_column is {strict_json.dumps(name)}: name an extra column of strings.")


def _read_model(default: ModelRecipe, section: object, where: str) -> ModelRecipe:
    """Read a model; a model that is named does not get the default's weights."""
    spec = _object(section, f"The recipe's {where}")
    if "model" not in spec:
        return _read(default, spec, where)
    if not str(spec["model"]).startswith(HUB_PREFIX) and spec.get("pretrained") is None:
        raise RecipeError(f"The recipe's {where} has no weights: give pretrained a tag, a file or a folder.")
    return _read(ModelRecipe(HUB_PREFIX, None, default.threshold), spec, where)


def _read(default: Section, section: object, where: str) -> Section:
    """Return `default` with the values of `section`, each checked against its field's type."""
    given = _object(section, f"The recipe's {where}")
    _refuse_unknown(given, type(default), f"The recipe's {where}")
    kinds = get_type_hints(type(default))
    return replace(default, **{name: _value(kinds[name], value, f"{where}.{name}") for name, value in given.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return a JSON value in its field's type."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value in list(kind):
            return kind(value)
        raise RecipeError(f"The recipe's {where} is {strict_json.dumps(value)}: give one of {', '.join(kind)}.")
    if kind is bool and isinstance(value, bool):
        return value
    if kind is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if kind is not bool and isinstance(value, kind) and not isinstance(value, bool):
        return value
    wanted = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(
        kind, "a text or null"
    )
    raise RecipeError(f"The recipe's {where} is {strict_json.dumps(value)}: give {wanted}.")


def _object(value: object, where: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise RecipeError(f"{where} is {strict_json.dumps(value)}: give a JSON object.")


def _refuse_unknown(given: Mapping[str, Any], kind: type[Any], where: str) -> None:
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise RecipeError(f"{where} has an unknown key {name!r}: use {', '.join(known)}.")
