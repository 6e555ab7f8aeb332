"""Tag a batch of pairs from its embeddings, while the filter has them in memory.

A `Tagger` serves one role, because heads and prompts depend on a model's embeddings. It only decides the safety drop;
thresholds on tags are left to the users of the data.

    drops(image_features, text_features)   → [None, Verdict, …]       samples to drop
    tags(image_features)                   → {"punsafe": (N,), …}     the part's columns, of heads on embeddings
    picture_tags(squares)                  → {"pwatermark": (N,), …}  the others, of squares of each side in `sides`
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
    """The part of a loaded model that tagging needs."""

    @property
    def checksums(self) -> Checksums:
        """Return the model's identity."""

    @property
    def dimensions(self) -> int:
        """Return D, the length of its embeddings."""


@dataclass(frozen=True, slots=True)
class Tagger:
    """The heads and the safety judge of one role; `checksums` are the sha256 of the heads' files."""

    heads: Mapping[Tag, Head] = field(default_factory=dict)
    picture_heads: Mapping[Tag, "PictureHead"] = field(default_factory=dict)
    judge: SafetyJudge | None = None
    checksums: Mapping[Tag, str] = field(default_factory=dict)

    @property
    def sides(self) -> frozenset[int]:
        """Return the sides of the squares that heads on pictures read."""
        return frozenset(head.side for head in self.picture_heads.values())

    def tags(self, image_features: Rows) -> dict[str, Rows]:
        """Tag N pairs by their image embeddings (N, D) float32 unit rows; return (N,) float32 by tag."""
        return {tag.value: head.score(image_features) for tag, head in self.heads.items()}

    def picture_tags(self, squares: Mapping[int, Pixels]) -> dict[str, Rows]:
        """Tag N pictures by their squares of each side, (N, side, side, 3) uint8; return (N,) float32 by tag."""
        return {tag.value: head.score(squares[head.side]) for tag, head in self.picture_heads.items()}

    def drops(self, image_features: Rows, text_features: Rows) -> list[Verdict | None]:
        """Return for each of N pairs the verdict that drops it, or None."""
        return self.judge.drops(image_features, text_features) if self.judge else [None] * len(image_features)


def load_taggers(
    recipe: Recipe, models: Mapping[str, TaggedModel], store: Store, device: str | None = None
) -> dict[str, Tagger]:
    """Load the recipe's heads and safety prompts for the given models, by role.

    Raises: HeadError when a head is missing or reads another model's embeddings; SafetyError; TagRecipeError when a
    file differs from the recipe's checksum.
    """
    prompts = read_safety_prompts(recipe.safety, store)
    return {role: _load(ModelRole(role), recipe, model, prompts, store, device) for role, model in models.items()}


def settle_tagging(recipe: Recipe, taggers: Mapping[str, Tagger]) -> Recipe:
    """Return the recipe with the checksums of heads and prompts, where it had none.

    Raises: TagRecipeError when the recipe has other checksums.
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
        raise HeadError(f"{spec.head} computes {file.tag}, but the recipe names it for {tag}: name another head.")
    return file


@contextmanager
def _local(spec: HeadRecipe, store: Store) -> "Iterator[Path]":
    """Yield a head's file as a local one."""
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
    """Import the image classifier only if a recipe names one: importing timm takes seconds."""
    from dataset.tags.picture_heads import load_picture_head

    return load_picture_head
