"""Tagging: what a batch of pairs is told about itself while its embeddings are at hand.

A `Tagger` is for one role, because heads and prompts belong to a model's embeddings. It decides nothing but the safety
drop; thresholds on tags are for whoever uses the data.

    tags(image_features, text_features, pictures) → {"punsafe": (N,), …}     the part's columns
    drops(image_features, text_features)          → [None, Verdict, …]       who is dropped unseen
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dataset.formats.parts import Verdict
from dataset.models.inputs import Pixels
from dataset.recipe.recipe import STORE_PREFIX, Checksums, ModelRole, Recipe
from dataset.recipe.tags import HeadRecipe, Tag, settle_safety, settle_tags
from dataset.safety.prompts import EmbedsTexts, SafetyJudge, SafetyPrompts, read_safety_prompts
from dataset.store.store import Store, StoreError
from dataset.tags.heads import Head, HeadError, HeadFile, Kind, Rows, read_head_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dataset.tags.picture_heads import PictureHead


class TaggedModel(EmbedsTexts, Protocol):
    """What tagging asks of a loaded model."""

    @property
    def checksums(self) -> Checksums:
        """Tell this model from others."""

    @property
    def dimensions(self) -> int:
        """D, the length of its embeddings."""


@dataclass(frozen=True, slots=True)
class Tagger:
    """The heads and the safety judge of one role; `checksums` are the sha256 of the heads' files."""

    heads: Mapping[Tag, Head] = field(default_factory=dict)
    picture_heads: Mapping[Tag, "PictureHead"] = field(default_factory=dict)
    judge: SafetyJudge | None = None
    checksums: Mapping[Tag, str] = field(default_factory=dict)

    @property
    def side(self) -> int | None:
        """Return the side of the squares that `tags` must be given, None when no head looks at pictures."""
        return next((head.side for head in self.picture_heads.values()), None)

    def tags(self, image_features: Rows, text_features: Rows, pictures: Pixels | None = None) -> dict[str, Rows]:
        """Tag N pairs: both features (N, D) float32 unit rows, `pictures` (N, side, side, 3) uint8.

        Return (N,) float32 by tag; a tag without a head is not among them.

        Raises: HeadError when a head looks at pictures, and not N were given.
        """
        assert len(image_features) == len(text_features)
        tags = {tag.value: head.score(image_features) for tag, head in self.heads.items()}
        for tag, head in self.picture_heads.items():
            if pictures is None or len(pictures) != len(image_features):
                raise HeadError(f"The head for {tag} looks at pictures: give one for each embedding.")
            tags[tag.value] = head.score(pictures)
        return tags

    def drops(self, image_features: Rows, text_features: Rows) -> list[Verdict | None]:
        """Say for each of N pairs why it must be dropped unseen, None when it may stay."""
        return self.judge.drops(image_features, text_features) if self.judge else [None] * len(image_features)


def load_taggers(
    recipe: Recipe, models: Mapping[str, TaggedModel], store: Store, device: str | None = None
) -> dict[str, Tagger]:
    """Load what the recipe says of tags and safety, for the models given, by role.

    Raises: HeadError when a head is missing or reads another model's embeddings; SafetyError; TagRecipeError when a
        file is not the one that the recipe is settled on.
    """
    prompts = read_safety_prompts(recipe.safety, store)
    return {role: _load(ModelRole(role), recipe, model, prompts, store, device) for role, model in models.items()}


def settle_tagging(recipe: Recipe, taggers: Mapping[str, Tagger]) -> Recipe:
    """Write the checksums of heads and prompts into those that the recipe leaves open.

    Raises: TagRecipeError when the recipe is settled on others.
    """
    sha256 = next((tagger.judge.prompts.sha256 for tagger in taggers.values() if tagger.judge), None)
    return replace(
        recipe,
        tags=settle_tags(recipe.tags, {role: tagger.checksums for role, tagger in taggers.items()}),
        safety=settle_safety(recipe.safety, sha256),
    )


def _load(
    role: ModelRole,
    recipe: Recipe,
    model: TaggedModel,
    prompts: SafetyPrompts | None,
    store: Store,
    device: str | None,
) -> Tagger:
    named = getattr(recipe.tags, role.value)
    files = {tag: _read(spec, tag, store) for tag in Tag if (spec := named.of(tag)) is not None}
    return Tagger(
        heads={tag: _fitting(file, model) for tag, file in files.items() if file.kind is Kind.EMBEDDING},
        picture_heads={
            tag: _picture_loader()(file, device) for tag, file in files.items() if file.kind is Kind.PICTURE
        },
        judge=SafetyJudge(prompts, role, model) if prompts else None,
        checksums={tag: file.sha256 for tag, file in files.items()},
    )


def _read(spec: HeadRecipe, tag: Tag, store: Store) -> HeadFile:
    with _local(spec, store) as path:
        file = read_head_file(path)
    if file.tag is not tag:
        raise HeadError(f"{spec.head} tags {file.tag}, and the recipe names it for {tag}: name another head.")
    return file


@contextmanager
def _local(spec: HeadRecipe, store: Store) -> "Iterator[Path]":
    """Give a head's file as a local one."""
    if not spec.head.startswith(STORE_PREFIX):
        yield Path(spec.head)
        return
    place = spec.head.removeprefix(STORE_PREFIX)
    try:
        data = store.read(place)
    except StoreError as error:
        raise HeadError(f"The store has no head {place}: put it there with `dataset heads add`.") from error
    with tempfile.TemporaryDirectory(prefix="shoal-head-") as folder:
        path = Path(folder) / Path(place).name
        path.write_bytes(data)
        yield path


def _fitting(file: HeadFile, model: TaggedModel) -> Head:
    head = file.head()
    if head.dimensions != model.dimensions:
        raise HeadError(
            f"The head for {head.tag} reads {head.dimensions} dimensions of {head.embedder.model}, the crawl's model "
            f"has {model.dimensions}: name a head that was made for it."
        )
    for what, made_on, loaded in (
        ("weights", head.embedder.sha256, model.checksums.weights),
        ("configuration or preprocessing", head.embedder.config_sha256, model.checksums.config),
    ):
        if made_on not in (None, loaded):
            raise HeadError(
                f"The head for {head.tag} was made on another model's {what} ({str(made_on)[:12]}…) than the crawl's "
                f"({loaded[:12]}…): train one on this model's embeddings with `dataset train-head`."
            )
    return head


def _picture_loader() -> "Callable[[HeadFile, str | None], PictureHead]":
    """Import what runs an image classifier only where a recipe names one: timm takes seconds."""
    from dataset.tags.picture_heads import load_picture_head

    return load_picture_head
